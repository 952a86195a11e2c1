"""`transport`: the transport plan between the tokens of a sentence pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_CHUNKER, DEFAULT_DEVICE, ChunkerOption, DeviceOption, StoreOption

EXAMPLES = """Example, with the first digits of a digest that `towers list` shows:

python -m harness transport --tower 9b436afe --english "A dog runs." --foreign "Ein Hund rennt." --out transport.html"""


def transport(
    tower: Annotated[str, typer.Option(help="A distilled tower: its folder, or the first digits of its digest.")],
    english: Annotated[str, typer.Option(help="An English sentence, for the teacher.")],
    foreign: Annotated[str, typer.Option(help="Its translation, for the tower.")],
    out: Annotated[Path, typer.Option(help="Page to write.")],
    chunker: ChunkerOption = DEFAULT_CHUNKER,
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Show the transport plan between the tokens of a sentence pair, and its cost, as heat maps."""
    from harness.leaderboards.browser.transport_viewer import write_transport_page
    from harness.runtime.console import Console
    from harness.storage.store import Store

    Console().print(write_transport_page(tower, english, foreign, chunker, out, device, Store.at(store)))
