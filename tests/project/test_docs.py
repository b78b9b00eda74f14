"""README and docs: links lead somewhere, commands are what the programs take, and a test runs each of them.

`tests/support/doclines.py` says how a page marks what needs a cluster.
"""

from __future__ import annotations

import re
import runpy
import tomllib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from doclines import MARK, Line, anchors, commands, links, pages, said
from lines import BadLine, job_command, parse, root
from PIL import Image
from places import PROJECT
from test_docs_run import PAGES, steps

RUN_BY = {
    "probe": "test_probe.py",
    "bench data": "test_docs_run.py",
    "bench gpu": "test_gpu.py",
    "bench serve": "test_docs_run.py",
    "data check": "test_docs_run.py",
    "data faces": "test_docs_run.py",
    "data shard": "test_docs_run.py",
    "demo": "test_docs_run.py",
    "evaluate": "test_docs_run.py",
    "serve": "test_docs_run.py",
    "status": "test_docs_run.py",
    "store build": "test_docs_run.py",
    "store compact": "test_store_commands.py",
    "store copy": "test_docs_run.py",
    "store info": "test_docs_run.py",
    "store verify": "test_docs_run.py",
    "store list": "test_store_commands.py",
    "store query": "test_docs_run.py",
    "store start": "test_store_commands.py",
    "store stop": "test_store_commands.py",
    "submit": "test_submit_cluster.py",
    "sweep": "test_study.py",
    "table": "test_study.py",
    "train all": "test_docs_run.py",
    "translate": "test_docs_run.py",
}
"""Which test runs a subcommand that the docs show."""


@lru_cache
def every_line() -> tuple[Line, ...]:
    return tuple(line for page in pages() for line in said(page.read_text(), str(page.relative_to(PROJECT))))


def check(line: Line) -> str | None:
    """Return the `rgcluster` subcommand that a line runs, if any; BadLine where its program would refuse it."""
    program, *rest = line.words
    if not line.whole:
        return mention(line.words)
    if program == "rgcluster":
        subcommand = parse(concrete(rest))
        if subcommand == "submit":
            job_command(f"python jobs/{rest[1]}.py {' '.join(rest[rest.index('--') + 1 :])}")
        return subcommand
    if program == "python" and rest[:1] != ["-m"]:
        return job_command(" ".join(line.words))
    if line.words[:3] == ("ray", "job", "submit"):
        return submit(line.words)
    if program in ("ray", "serve"):
        ray_line(line.words)
    if program == "make":
        for target in rest:
            if target not in targets():
                raise BadLine(f"{line}: no such target")
    if program == "pip":
        extras(" ".join(rest))
    return None


def concrete(words: list[str]) -> list[str]:
    """Placeholders that stand for numbers, as numbers."""
    return ["1" if word.startswith("$") or word == "N" else word for word in words]


def mention(words: tuple[str, ...]) -> str | None:
    """Check a command named in the text: its subcommands and options have to exist, not to be all there."""
    if words[:3] == ("ray", "job", "submit") and "--" in words:
        return submit(words)
    if words[0] == "make":
        if words[1] not in targets():
            raise BadLine(f"make {words[1]}: no such target")
    if words[0] != "rgcluster":
        return None
    command, names = root(), []
    rest = list(words[1:])
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("--"):
            known(command, rest.pop(0))
            rest = rest[1:]
        elif rest[0] in command.commands:
            names.append(rest[0])
            command = command.commands[rest.pop(0)]
        elif rest[0].isupper() or "|" in rest[0]:  # a placeholder, or a choice
            for choice in rest[0].split("|") if "|" in rest[0] else ():
                if choice not in command.commands:
                    raise BadLine(f"{' '.join(words)}: no {choice}")
            return None
        else:
            raise BadLine(f"{' '.join(words)}: no {rest[0]}")
    for word in rest:
        if word.startswith("-") and len(word) > 1 and not word[1].isupper():
            if word == "--":  # what comes behind is another command's
                break
            known(command, word)
    return " ".join(names) or None


def known(command: object, option: str) -> None:
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}  # type: ignore[attr-defined]
    if option.split("=")[0] not in options | {"--help"}:
        raise BadLine(f"no option {option}")


def submit(words: tuple[str, ...]) -> str:
    """Check `ray job submit OPTIONS -- python jobs/X.py ...` on both sides of the dashes."""
    ray_line(words)
    return job_command(" ".join(words[words.index("--") + 1 :]))


def ray_line(words: tuple[str, ...]) -> None:
    """Check a line of Ray's own commands with their own parsers, and that the files it names exist."""
    from ray.scripts.scripts import cli as ray_cli
    from ray.serve.scripts import cli as serve_cli

    program, *rest = words
    command = ray_cli if program == "ray" else serve_cli
    while hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            raise BadLine(f"{' '.join(words)}: no {name}")
        command = command.commands[name]
    try:
        command.make_context(words[0], list(rest))
    except Exception as error:
        raise BadLine(f"{' '.join(words)}: {error}") from None
    for word in rest:
        if word.endswith((".yaml", ".json")) and not (PROJECT / word).exists():
            raise BadLine(f"{' '.join(words)}: no file {word}")


@lru_cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def extras(line: str) -> None:
    known_extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r"(?:rgcluster|\.)\[([\w,]+)\]", line):
        for extra in name.split(","):
            if extra not in known_extras:
                raise BadLine(f"{line}: no extra {extra}")


# --- links


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_and_anchors_exist(page: Path) -> None:
    assert not broken(page, page.read_text())


def broken(page: Path, text: str) -> list[str]:
    found = []
    for link in links(text):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            found.append(link)
        elif anchor and anchor not in anchors(text if target == page else target.read_text()):
            found.append(link)
    return found


def test_a_broken_link_is_found() -> None:
    page, text = (
        PROJECT / "docs" / "data.md",
        "# A heading, twice\n[a](store.md) [b](stores.md) [c](#a-heading-twice) [d](#b)",
    )
    assert broken(page, text) == ["stores.md", "#b"]
    assert broken(page, "[a](store.md#which-index) [b](store.md#which)") == ["store.md#which"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`([\w/.-]+/[\w-]+\.(?:py|md|yaml|json|html))`", page.read_text()):
        if name.startswith("runs/"):  # what a command of the page makes, and `make demo` may have made
            continue
        homes = [root for root in (PROJECT, PROJECT / "rgcluster") if (root / name.split("/")[0]).is_dir()]
        assert not homes or any((root / name).exists() for root in homes) or Path(name).stem.isupper(), name


def test_the_picture_of_the_quick_start_equals_its_scripts_output() -> None:
    picture = runpy.run_path(str(PROJECT / "docs" / "picture.py"))["picture"]()
    with Image.open(PROJECT / "docs" / "faces.jpg") as shown:
        assert shown.size == picture.size
        difference = np.abs(np.asarray(shown, np.int16) - np.asarray(picture, np.int16)).mean(axis=2)
    tiles = [tile for row in np.array_split(difference, 3) for tile in np.array_split(row, 10, axis=1)]
    assert max(tile.mean() for tile in tiles) < 4  # JPEG's own loss, in every face
    assert (PROJECT / "docs" / "faces.jpg").stat().st_size < 150_000


# --- commands


def test_every_command_is_one_that_its_program_takes() -> None:
    wrong = []
    for line in every_line():
        try:
            check(line)
        except BadLine as error:
            wrong.append(f"{line.page}:{line.number}: {error}")
    assert not wrong, "\n".join(wrong)
    assert len([line for line in every_line() if line.whole]) > 50


def test_every_command_is_run_by_a_test_or_needs_a_cluster() -> None:
    unproven, shown = [], set()
    for line in every_line():
        if not line.whole or line.marked:
            continue
        if line.words[0] in ("kubectl", "docker", "aws", "ray"):
            unproven.append(f"{line}: mark its block with {MARK}")
        elif (subcommand := check(line)) and subcommand not in RUN_BY:
            unproven.append(f"{line}: no test runs it")
        elif subcommand:
            shown.add(subcommand)
    assert not unproven, "\n".join(unproven)
    assert shown == set(RUN_BY)


@lru_cache
def run_here() -> set[str]:
    return {parse(step[1:]) for name in PAGES for step in steps(name) if step[0] == "rgcluster"}


@pytest.mark.parametrize(("subcommand", "file"), RUN_BY.items())
def test_the_test_that_is_named_runs_the_command(subcommand: str, file: str) -> None:
    if file == "test_docs_run.py":
        assert subcommand in run_here()
    else:
        last = subcommand.split()[-1]
        group = subcommand.removesuffix(last).strip() or "command"
        before = rf'"{group}",\s*|{group}\(\s*|[(\[]\s*|cli import main; main\(\)",\s*'
        assert re.search(rf'(?:{before})"{last}"', next((PROJECT / "tests").rglob(file)).read_text())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("    rgcluster data shrad a b\n", "No such command"),
        ("    rgcluster data shard faces\n", "Missing"),
        ("    rgcluster evaluate --runs x\n", "No such option"),
        ("    rgcluster bench data --images few\n", "few|integer"),
        ("    rgcluster train all --data a --run b \\\n        --prest demo\n", "No such option"),
        ("    a && rgcluster evaluat --run x\n", "No such command"),
        ("Type `rgcluster data shrad`.", "shrad"),
        ("Type `rgcluster sweep --ovre x`.", "--ovre"),
        ("Type `rgcluster store build|lsit`.", "lsit"),
        ("    make dmeo\n", "no such target"),
        ("Type `make dmeo`.", "no such target"),
        ("    python jobs/pipelines.py --run x\n", "not a job"),
        ("    ray job submit --working-dir . -- python jobs/pipeline.py --ran x\n", "No such option"),
        ("    ray job submit --workingdir . -- python jobs/pipeline.py --run x\n", "working"),
        ("    rgcluster submit pipelines -- --run x\n", "not a job"),
        ("    rgcluster submit pipeline -- --ran x\n", "No such option"),
        ("    ray up clusters.yaml\n", "no file"),
        ("    ray upp cluster.yaml\n", "no upp"),
        ("    serve deploy served.yaml\n", "served.yaml"),
        ("    pip install 'rgcluster[gpus]'\n", "no extra"),
        ("```sh\nrgcluster statsu --run x\n```\n", "No such command"),
    ],
)
def test_a_wrong_command_is_found(text: str, words: str) -> None:
    with pytest.raises(BadLine) as caught:
        for line in said(text, "page.md"):
            check(line)
    assert re.search(words, str(caught.value))


def test_text_that_is_no_command_is_ignored() -> None:
    for text in (
        "    rgcluster/config/   what can be set\n",
        "    step = compute\n",
        "`rgcluster`",
        "```python\nmake = 1\n```",
    ):
        assert not said(text, "page.md")
    assert commands("for t in 1 2; do rgcluster table $t --run x; done") == [
        ("rgcluster", "table", "$t", "--run", "x")
    ]
    assert commands("RAY_AUTH_MODE=token ray up a.yaml | tail # make x") == [("ray", "up", "a.yaml")]


def test_marks_reach_their_block_alone() -> None:
    text = (
        f"{MARK}\n\n    ray up cluster.yaml\n    ray down cluster.yaml\n\ntext\n\n    ray up cluster.yaml\n"
    )
    assert [line.marked for line in said(text, "page.md")] == [True, True, False]
    text = f"{MARK}\n```sh\nray up cluster.yaml\n```\n```sh\nray up cluster.yaml\n```\n"
    assert [line.marked for line in said(text, "page.md")] == [True, False]


def test_make_demo_runs_a_valid_command() -> None:
    (recipe,) = re.findall(
        r"^demo:.*\n\t\$\(BIN\)/rgcluster (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE
    )
    assert parse(recipe.split()) == "demo"
