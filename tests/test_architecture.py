"""The rooms of the package: what may import what."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import rgcluster

PACKAGE = Path(rgcluster.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "config",
        "remote",
        "storage",
        "events",
        "checkpoint",
        "placement",
        "progress",
        "session",
        "versions",
        "weights",
        "client",
        "rundir",
    ),
    ("model", "data", "store"),
    ("inference",),
    ("train", "evaluate"),
    ("pipeline", "serve"),
    ("bench", "study", "exchange", "submission", "overview"),
    ("commands",),
    ("cli",),
)
"""Ground floor first; `docs/architecture.md` says what each room holds."""

GROUND = (
    "errors", "remote", "storage", "events", "config", "weights", "checkpoint", "placement", "progress", "session",
    "versions", "rundir", "client",
)  # fmt: skip
"""The ground floor is single files: each imports only from those before it."""

ONLY_IN = {"faiss": {"store/index.py", "store/approximate.py", "bench/store.py"}}
NEVER_IN = {"ray": "model"}


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
    assert set(GROUND) == set(FLOORS[0])


def allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if floor(imported) < floor(importer):
        return True
    if floor(imported) > floor(importer):
        return False
    if floor(importer) == 0:
        return GROUND.index(imported) < GROUND.index(importer)
    return False


@pytest.mark.parametrize("module", [module for module in modules() if not room(module).startswith("__")])
def test_rooms_import_from_below(module: str) -> None:
    wrong = {name for name in rooms_imported(module) if not allowed(room(module), name)}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_the_rule_is_no_empty_one() -> None:
    assert {"config", "model", "inference"} <= rooms_imported("train/ingest.py")
    assert allowed("train", "model") and not allowed("model", "train") and not allowed("model", "data")
    assert not allowed("train", "evaluate") and not allowed("errors", "config")


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_where_they_belong(module: str) -> None:
    found = {name.split(".")[0] for name in imports(module)}
    for library, places in ONLY_IN.items():
        assert library not in found or module in places
    for library, forbidden in NEVER_IN.items():
        assert library not in found or room(module) != forbidden


def test_libraries_are_used_where_they_belong() -> None:
    assert "faiss" in set(imports("store/index.py"))


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
