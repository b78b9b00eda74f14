"""The rooms of the package: what may import what."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rgcluster

PACKAGE = Path(rgcluster.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "config", "base", "client"),
    ("model", "faces", "store"),
    ("data",),
    ("translate",),
    ("train", "evaluate"),
    ("pipeline", "serve"),
    ("bench", "study", "submission"),
    ("cli",),
)
"""Ground floor first; `docs/architecture.md` says what each room holds."""

ORDER: dict[str, str] = {
    "": "errors config base client",
    "config": "section celeba data model losses stages store evaluation cluster text validation config loading",
    "base": "attributes remote storage versions rundir logs checkpoint placement "
    "progress weights cluster locks session",
    "model": "noise kernels layers fill networks retrieval fusion gmm losses translator triplets handover interop",
    "faces": "canvas identity palette scene parts sampling drawing dataset sheet",
    "data": "fits kinds images fit order parallel index sources splits shards shard_writer stream survey",
    "store": "index disk changes shard results view actors client local store",
    "translate": "variants device tensors query familiar contents retriever finished guided opened jobs",
    "train": "stage workers records guards meter checkpoints watch preflight preemption steps embed loop",
    "evaluate": "metrics measure report figures",
    "pipeline": "fit context stages checks run ladder exchange overview",
    "serve": "settings telemetry batcher backend engine http exposition deploy",
    "cli": "early finished sharding commands",
}
"""Inside a room an entry, file or inner room, imports only from those that stand before it here.

Entries that are not listed may import any that are, and each other without circles.
"""

LARGEST_ROOM = 14
"""Entries of a folder below the package's own, `__init__.py` included."""

ONLY_IN = {
    "faiss": {"store/index/exact.py", "store/index/approximate.py", "bench/store.py", "bench/gpu/search.py"}
}
NEVER_IN = {"ray": "model"}
PRIVATE = "base/cluster/internals.py"
"""The one file that imports what libraries keep private."""


def modules() -> list[str]:
    """Paths of the package's files, below the package."""
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@lru_cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(), module)


def imports(module: str) -> Iterator[str]:
    """Dotted names that the module imports, anywhere in it; `from a import b` gives a and a.b."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}:{node.lineno}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def rooms_imported(module: str) -> set[str]:
    known = {name for rooms in FLOORS for name in rooms}
    parts = [name.split(".") for name in imports(module)]
    found = {part[1] for part in parts if part[0] == "rgcluster" and len(part) > 1}
    return {name for name in found if name in known}


def test_every_file_has_a_room() -> None:
    known = {name for rooms in FLOORS for name in rooms} | {"__init__", "__main__"}
    assert {room(module) for module in modules()} <= known


def allowed(importer: str, imported: str) -> bool:
    return importer == imported or floor(imported) < floor(importer)


@pytest.mark.parametrize("module", [module for module in modules() if "/" in module])
def test_rooms_import_from_below(module: str) -> None:
    wrong = {
        name for name in rooms_imported(module) if floor(room(module)) > 0 and not allowed(room(module), name)
    }
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def folders() -> list[str]:
    """Every folder of the package that holds Python files, below the package; the package itself is ''."""
    return sorted({str(Path(module).parent).removeprefix(".") for module in modules()})


def entries(folder: str) -> list[str]:
    """What lies in a folder, by the names it is listed under: files without `.py`, inner rooms."""
    found = (path for path in (PACKAGE / folder).iterdir() if path.name != "__pycache__")
    return sorted(path.name.removesuffix(".py") for path in found)


def edges(folder: str) -> dict[str, set[str]]:
    """For every entry of a folder the other entries of it that it imports from."""
    prefix = ["rgcluster", *Path(folder).parts]
    found: dict[str, set[str]] = {}
    for module in modules():
        parts = Path(module).with_suffix("").parts
        if (
            parts[: len(prefix) - 1] != tuple(prefix[1:])
            or parts[-1] == "__init__"
            and len(parts) == len(prefix)
        ):
            continue
        entry = parts[len(prefix) - 1]
        for name in imports(module):
            words = name.split(".")
            if words[: len(prefix)] == prefix and len(words) > len(prefix):
                other = words[len(prefix)]
                if other in entries(folder) and other != entry:
                    found.setdefault(entry, set()).add(other)
    return found


def misplaced(folder: str) -> list[str]:
    """Imports of a folder's entries that go against its order, or that lead in a circle."""
    order = ORDER.get(folder, "").split()
    wrong = [
        f"{entry} imports {other}"
        for entry, others in edges(folder).items()
        for other in others
        if entry in order and (other not in order or order.index(other) > order.index(entry))
    ]
    try:
        tuple(TopologicalSorter(edges(folder)).static_order())
    except CycleError as error:
        wrong.append("circle: " + " -> ".join(error.args[1]))
    return wrong


@pytest.mark.parametrize("folder", [folder for folder in folders() if folder])
def test_inner_rooms_import_from_below(folder: str) -> None:
    assert not misplaced(folder)


@pytest.mark.parametrize("folder", ORDER)
def test_orders_name_what_is_there(folder: str) -> None:
    assert set(ORDER[folder].split()) <= set(entries(folder))


@pytest.mark.parametrize("folder", [folder for folder in folders() if folder])
def test_no_room_is_crowded(folder: str) -> None:
    assert len(entries(folder)) <= LARGEST_ROOM


def test_the_rule_is_not_empty() -> None:
    assert {"config", "model", "translate"} <= rooms_imported("train/steps/ingest.py")
    assert allowed("train", "model") and not allowed("model", "train") and not allowed("model", "store")
    assert not allowed("train", "evaluate") and not allowed("errors", "config")
    assert {"disk", "index", "changes"} <= edges("store")["shard"]
    assert "snapshot" in edges("store/disk")["writer"]


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_where_they_belong(module: str) -> None:
    found = {name.split(".")[0] for name in imports(module)}
    for library, places in ONLY_IN.items():
        assert library not in found or module in places
    for library, forbidden in NEVER_IN.items():
        assert library not in found or room(module) != forbidden


@pytest.mark.parametrize("module", modules())
def test_private_parts_of_libraries_are_used_in_one_file(module: str) -> None:
    private = [name for name in imports(module) if "._" in name and name.split(".")[0] != "rgcluster"]
    assert not private or module == PRIVATE, f"{module} imports {private[0]}; {PRIVATE} is the place for that"


def test_libraries_are_used_where_they_belong() -> None:
    assert any("ray._private" in name for name in imports(PRIVATE))
    assert "faiss" in set(imports("store/index/exact.py"))


@pytest.mark.parametrize("module", modules())
def test_modules_say_what_they_are(module: str) -> None:
    docstring = ast.get_docstring(tree(module))
    assert docstring and docstring.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize("module", [module for module in modules() if not module.endswith("__main__.py")])
def test_exports_exist(module: str) -> None:
    """Every module can be imported, and holds what its `__all__` names, each once."""
    dotted = f"rgcluster/{module}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    imported = importlib.import_module(dotted)
    exported = getattr(imported, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert not [name for name in exported if not hasattr(imported, name)]


def undocumented(source: ast.Module) -> list[str]:
    """Names of `__all__` that are functions or classes of the module without a docstring."""
    exported: set[str] = set()
    for node in source.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            exported = set(ast.literal_eval(node.value))
    return [
        node.name
        for node in source.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name in exported
        and not ast.get_docstring(node)
    ]


@pytest.mark.parametrize("module", modules())
def test_exports_say_what_they_are(module: str) -> None:
    assert not undocumented(tree(module))


def test_an_export_without_docstring_is_found() -> None:
    assert undocumented(ast.parse("__all__ = ['f', 'C']\ndef f(): pass\nclass C: 'x'\ndef g(): pass")) == [
        "f"
    ]
