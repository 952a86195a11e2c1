"""`browse`: which captions found which pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_DEVICE, DataOption, DeviceOption, StoreOption

EXAMPLES = """Example, with the beginnings of two cells that `list runs` shows:

python -m harness browse 5fe7a39c a3126fd4 --data ~/flickr30k --out errors"""


def browse(
    cells: Annotated[
        list[str], typer.Argument(help="Records of your store: beginnings of their cells, as `list runs` shows them.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to make, with the page and its thumbnails. Not for publishing: it holds captions.")
    ],
    data: DataOption = None,
    embed_images: Annotated[bool, typer.Option("--embed-images", help="Put the thumbnails into the page itself.")] = False,
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Make a page of every query: its caption, the right picture, what each tower found first, and filters on who was right."""
    from harness.leaderboards.browser.error_browser import write_error_browser as write_browser
    from harness.runtime.console import Console
    from harness.storage.store import Store

    console = Console()
    console.print(write_browser(cells, data, out, embed_images, device, Store.at(store), console))
