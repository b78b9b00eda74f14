"""What README and docs say: their links, headings, and every command line in blocks and in running text.

A block that no test can run, because it needs machines that a test has not, is marked by a comment on the line
before it: `<!-- needs a cluster -->`. Everything else has to be run by a test.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from places import PROJECT

__all__ = ["MARK", "Line", "anchors", "links", "pages", "said"]

MARK = "<!-- needs a cluster -->"
PROGRAMS = (
    "rgcluster", "make", "python", "ray", "serve", "kubectl", "docker", "curl", "tensorboard", "pip", "aws",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A command, as words, where it stands, and whether it is a whole command of a block or a mention in the text."""

    page: str
    number: int
    words: tuple[str, ...]
    whole: bool
    marked: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.number}: {shlex.join(self.words)}"


def pages() -> list[Path]:
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def said(text: str, page: str) -> list[Line]:
    """Every command line of a page."""
    found: list[Line] = []
    lines = text.splitlines()
    language, marked, number = "", False, 0
    while number < len(lines):
        line = lines[number]
        start, number = number + 1, number + 1
        fence = re.match(r"```(\w*)", line)
        if fence:
            language = "" if language else fence[1] or "text"
            marked = bool(language) and _mark(lines, start - 2)
            continue
        indented = line.startswith("    ") and line.strip()
        if indented and not language and (start == 1 or not lines[start - 2].startswith("    ")):
            marked = _mark(lines, start - 2)
        if language in ("", "sh", "bash", "text", "console") and (indented or language):
            while line.endswith("\\") and number < len(lines):
                line = line[:-1] + " " + lines[number].strip()
                number += 1
            found += [Line(page, start, words, True, marked) for words in commands(line)]
        elif not indented and not language:
            for code in re.findall(r"`([^`]+)`", line):
                words = split(code)
                if words and words[0] in PROGRAMS and len(words) > 1:
                    found.append(Line(page, start, words, False, False))
    return found


def _mark(lines: list[str], before: int) -> bool:
    while before >= 0 and not lines[before].strip():
        before -= 1
    return before >= 0 and lines[before].strip() == MARK


def commands(line: str) -> list[tuple[str, ...]]:
    """The commands of a shell line: those that `&&`, `;`, `|` and a loop join."""
    found: list[tuple[str, ...]] = []
    words: list[str] = []
    for word in (*split(line), ";"):
        if word in ("&&", ";", "|", "||") or word.endswith(";"):
            words += [word[:-1]] if len(word) > 1 and word.endswith(";") else []
            while words and (words[0] in ("do", "then", "export", "time") or re.match(r"\w+=", words[0])):
                words = words[1:]
            if words and words[0] in PROGRAMS:
                found.append(tuple(words))
            words = []
        elif word in (">", ">>", "2>"):
            break
        else:
            words.append(word)
    return found


def split(line: str) -> tuple[str, ...]:
    """The words of a line without its comment; none where its quotes do not close, as in prose."""
    try:
        return tuple(shlex.split(line, comments=True))
    except ValueError:
        return ()


def anchors(text: str) -> set[str]:
    """What a link may name after `#`: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures."""
    plain = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return re.findall(r"\]\(([^)\s]+)\)", plain) + re.findall(r'(?:src|href)="([^"]+)"', plain)
