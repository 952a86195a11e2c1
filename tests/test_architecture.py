"""The architecture: no import cycles, no crowded folders, one definition for each public name, an up-to-date picture."""

import re
from collections import Counter, defaultdict

from tests.support.imports import ROOT, draw_layers, import_cycles, modules, public_names

MAX_MODULES = 14

# Public names that several modules define on purpose, and why: by the modules' prefix, and by name.
PARALLEL_MODULES = {
    "harness.tasks.sample.grammar.": "one module a language, with one interface",
    "harness.distill.transport.": "one computation in PyTorch, compiled for a processor, and compiled for a GPU",
    "harness.cli.": "one module a command or group: its examples, and the names of its subcommands",
}
SHARED_NAMES = {
    "T": "a type variable",
    "R": "a type variable",
    "main": "the entry point of a module that `python -m` runs",
    "distill": "the command is named as the function that does its work",
}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_cycles() == []


def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent for path in modules().values())
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MAX_MODULES}
    assert not crowded, f"more than {MAX_MODULES} modules: make packages of them"


def test_a_public_name_is_defined_in_one_module() -> None:
    definitions = defaultdict(list)
    for module in modules():
        for name in public_names(module):
            definitions[name].append(module)
    ambiguous = {
        name: places
        for name, places in sorted(definitions.items())
        if len(places) > 1
        and name not in SHARED_NAMES
        and not any(all(place.startswith(prefix) for place in places) for prefix in PARALLEL_MODULES)
    }
    assert not ambiguous, "rename one, define it once, or allow it above with the reason"


def test_the_allowed_names_are_still_shared() -> None:
    definitions = Counter(name for module in modules() for name in public_names(module))
    assert [name for name in SHARED_NAMES if definitions[name] < 2] == []


def test_the_picture_of_the_layers_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"```text\n{draw_layers().strip()}\n```" in page, "make it again by: python -m tests.support.imports"


def test_every_module_that_the_architecture_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bharness(?:\.\w+)+", page))
    assert named
    assert named <= set(modules()), named - set(modules())
