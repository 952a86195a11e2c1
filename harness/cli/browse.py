"""`browse`: a page of queries and the first-ranked candidates of each tower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_DEVICE, DataOption, DeviceOption, StoreOption

EXAMPLES = """Example, with the first digits of two cells that `list runs` shows:

python -m harness browse 5fe7a39c a3126fd4 --data ~/flickr30k --out errors"""


def browse(
    cells: Annotated[
        list[str], typer.Argument(help="Records of your store: first digits of their cells, as `list runs` shows them.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the page and its thumbnails. Do not publish it: it holds captions.")],
    data: DataOption = None,
    embed_images: Annotated[bool, typer.Option("--embed-images", help="Embed the thumbnails in the page.")] = False,
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Write a page of every query with its caption, the relevant image, the first candidates of each tower, and filters."""
    from harness.leaderboards.browser.error_browser import write_error_browser as write_browser
    from harness.runtime.console import Console
    from harness.storage.store import Store

    console = Console()
    console.print(write_browser(cells, data, out, embed_images, device, Store.at(store), console))
