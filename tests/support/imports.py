"""The import graph of the project, read from its source. `python -m tests.support.imports` prints its layers as text.

Only imports at run time count, including those inside functions. Imports for annotations alone are ignored.
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("harness", "tasks", "encoders", "leaderboards")


@cache
def modules() -> Mapping[str, Path]:
    """Return the source file of each module by import name."""
    found = {}
    for path in (path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        parts = parts if parts[0] == "harness" else ["harness", *parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def syntax_tree(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Return the modules of the project that a module imports at run time."""
    return {name for name in imported_names(syntax_tree(module)) if name in modules()} - {module}


def imported_names(node: ast.AST) -> Iterator[str]:
    """Yield the modules that import statements name."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            member = f"{node.module}.{alias.name}"
            yield member if member in modules() else node.module
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported_names(child)


def import_cycles() -> list[list[str]]:
    """Return groups of modules that import each other in a cycle (strongly connected components of more than one module)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    names = list(modules())
    places = {name: place for place, name in enumerate(names)}
    pairs = [(places[name], places[other]) for name in names for other in imports(name)]
    matrix = csr_array(([1] * len(pairs), tuple(zip(*pairs, strict=True))), shape=(len(names), len(names)))
    _, labels = connected_components(matrix, connection="strong")
    groups = defaultdict(list)
    for name, label in zip(names, labels.tolist(), strict=True):
        groups[label].append(name)
    return [group for group in groups.values() if len(group) > 1]


def public_names(module: str) -> set[str]:
    """Return the public names of classes, functions and variables at the top level of a module."""
    found = set()
    for node in syntax_tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def layers() -> list[list[str]]:
    """Return the packages of each layer, highest first, from the contract of import-linter in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "layers")
    return [[package.strip() for package in layer.split("|")] for layer in contract["layers"]]


def draw_layers() -> str:
    """Return the layers as text, highest first: each package with its purpose, its modules and its imports."""
    lines = []
    for layer in layers():
        for package in layer:
            within = [name for name in modules() if name.startswith(f"{package}.")]
            below = {".".join(other.split(".")[:2]) for name in [package, *within] for other in imports(name)} - {
                package,
                "harness",
            }
            order = [other for others in layers() for other in others if other in below]
            lines += [package, f"    {(ast.get_docstring(syntax_tree(package)) or '').splitlines()[0]}"]
            lines += [f"    modules: {', '.join(sorted(name.removeprefix(f'{package}.') for name in leaf_modules(within)))}"]
            lines += [f"    imports: {', '.join(other.removeprefix('harness.') for other in order) or 'nothing'}", ""]
    return "\n".join(lines)


def leaf_modules(names: list[str]) -> list[str]:
    """Return the modules that are no packages, without those of the embedded sample."""
    return [name for name in names if modules()[name].name != "__init__.py" and ".sample." not in name]


if __name__ == "__main__":
    print(draw_layers(), end="")
