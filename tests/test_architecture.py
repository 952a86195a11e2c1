"""The house is in order: no circles, no crowded folders, one meaning a name, and a picture that is the code's."""

import re
from collections import Counter

from tests.support.imports import ROOT, draw_layers, import_cycles, modules

CROWDED = 14

# Names that several modules define on purpose, and why.
PARALLEL = {
    "harness.tasks.sample.grammar.": "one module a language, with one interface",
    "harness.distill.transport.": "one computation: padded, compiled for a processor, compiled for a GPU",
    "harness.cli.": "a command is named as the function that it calls",
    "harness.encoders.": "one module a family of models, with one interface",
}
GENERAL = {"T": "a type variable", "R": "a type variable", "main": "the entry point of a module that is run by `python -m`"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_cycles() == []


def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent for path in modules().values())
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > CROWDED}
    assert not crowded, f"more than {CROWDED} modules: make packages of them"


def test_the_picture_of_the_layers_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"```text\n{draw_layers().strip()}\n```" in page, "make it again by: python -m tests.support.imports"


def test_every_module_that_the_architecture_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bharness(?:\.\w+)+", page))
    assert named
    assert named <= set(modules()), named - set(modules())
