"""The package as it is installed: what it imports is declared, and what lies beside the code is included."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from places import PROJECT

PACKAGE = PROJECT / "rgcluster"


@lru_cache
def project() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


@lru_cache
def homes() -> Mapping[str, list[str]]:
    """The distributions that install each importable name."""
    return packages_distributions()


def requirements() -> list[Requirement]:
    """What the package itself needs, and what its extras add; `dev` and `docs` are no part of it."""
    extras = project()["project"]["optional-dependencies"]
    lines = [*project()["project"]["dependencies"]]
    lines += [line for name, listed in extras.items() if name not in ("dev", "docs") for line in listed]
    return [Requirement(line) for line in lines]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(source: str) -> set[str]:
    """The top-level names that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def undeclared(names: set[str]) -> set[str]:
    """Those of the imported names that no declared requirement installs."""
    declared = {normalised(requirement.name) for requirement in requirements()}
    return {
        name
        for name in names - set(sys.stdlib_module_names) - {"rgcluster"}
        if not declared & {normalised(home) for home in homes().get(name, [name])}
    }


def test_every_imported_library_is_declared() -> None:
    names = set().union(*(imported(file.read_text()) for file in PACKAGE.rglob("*.py")))
    assert "jinja2" in names and not undeclared(names)
    assert undeclared({"flask", "json", "yaml"}) == {"flask"}


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_declared_ranges_have_a_lower_bound_and_hold_what_is_installed(requirement: Requirement) -> None:
    assert any(bound.operator == ">=" for bound in requirement.specifier)
    if normalised(requirement.name) in map(normalised, sum(homes().values(), [])):
        assert requirement.specifier.contains(version(requirement.name), prereleases=True)


def test_files_beside_the_code_are_packaged() -> None:
    patterns = project()["tool"]["setuptools"]["package-data"]["rgcluster"]
    packaged = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    others = {file for file in PACKAGE.rglob("*") if file.is_file() and not ignored(file)}
    assert others and not others - packaged


def ignored(file: Path) -> bool:
    return file.suffix == ".py" or "__pycache__" in file.parts
