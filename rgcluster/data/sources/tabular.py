"""Parsing of tables, and their columns: files, splits, attributes, classes."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from rgcluster.base.attributes import nearest
from rgcluster.data.sources.files import IMAGE_SUFFIXES
from rgcluster.data.sources.words import NUMBERED_SPLITS, SPLITS, split_of
from rgcluster.errors import DataError, quoted

__all__ = ["Columns", "Labels", "Sheet", "decode_text", "lines_of", "one_hot", "parse_table"]

FILE_COLUMNS = (
    "file", "file_name", "filename", "image", "image_id", "image_name", "image_path", "path", "file_path",
    "filepath", "img", "img_name", "img_path",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "partition", "subset")
_FLAGS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "-1": 0, "-1.0": 0, "false": 0}


@dataclass(frozen=True)
class Columns:
    """Columns by meaning. Columns that are not given are found by their usual names; all others are attributes."""

    file: str | None = None
    split: str | None = None
    attributes: tuple[str, ...] = ()
    classes: str | None = None
    """The column of class names, instead of attributes."""


@dataclass(frozen=True)
class Labels:
    """Names of attributes [A] and labels int8 [N, A] in {0, 1}; `one_hot` where they are classes."""

    names: tuple[str, ...]
    values: npt.NDArray[np.int8]
    one_hot: bool


def one_hot(values: Iterable[str], classes: Sequence[str], source: str) -> Labels:
    """Return the labels of rows that each have one of the classes; DataError for fewer than two, or two spellings."""
    if len(classes) < 2:
        raise DataError(
            f"{source}: one class alone, {classes[0]!r}; a translator needs two, or use --layout images"
        )
    spelt: dict[str, str] = {}
    for name in classes:
        other = spelt.setdefault(name.casefold(), name)
        if other != name and len(name) > 1:  # letters are classes of their own
            raise DataError(f"{source}: the classes {other!r} and {name!r} differ in case alone; rename one")
    column = {name: number for number, name in enumerate(classes)}
    chosen = np.fromiter((column[value] for value in values), np.int32)
    labels = np.zeros((len(chosen), len(classes)), np.int8)
    labels[np.arange(len(chosen)), chosen] = 1
    return Labels(tuple(classes), labels, True)


@dataclass(frozen=True)
class Sheet:
    """A table's rows, the name that messages call it by, and the line of its first row.

    `classes` are the names of the classes that a column of numbers stands for.
    """

    rows: pa.Table
    source: str
    first_line: int = 2
    classes: dict[str, tuple[str, ...]] | None = None

    def files(self, columns: Columns) -> tuple[str, list[str]]:
        """Return the column of file names and the names in it, as they are written."""
        name = columns.file or self._usual("file", FILE_COLUMNS)
        if name is None:
            separators = (
                "" if len(self._names) > 1 else "; columns are separated by commas, semicolons or tabs"
            )
            raise DataError(
                f"{self.source}: no column {' or '.join(FILE_COLUMNS[:5])}; name the column of files with "
                f"--file-column{separators}"
            )
        self._require(name)
        column = self.rows[name]
        if not _is_text(column.type):
            raise DataError(
                f"{self.source}: column {name!r} holds {column.type}, not names of files; write them as text, "
                "or name another with --file-column"
            )
        files = column.to_pylist()
        if not files:
            raise DataError(f"{self.source}: no rows")
        if not all(files):
            line = self.first_line + next(row for row, file in enumerate(files) if not file)
            raise DataError(f"{self.source}: line {line} names no file in column {name!r}; remove the row")
        return name, files

    def splits(self, columns: Columns) -> tuple[str | None, list[str] | None]:
        """Return the column of splits and the split of each row; none where there is no such column."""
        name = columns.split or self._usual("split", SPLIT_COLUMNS)
        if name is None:
            return None, None
        self._require(name)
        splits = []
        for line, value in enumerate(self.rows[name].to_pylist(), start=self.first_line):
            split = split_of(str(value)) or NUMBERED_SPLITS.get(str(value).strip())
            if split is None:
                raise DataError(
                    f"{self.source}: line {line}, column {name!r} holds {quoted(value)}; "
                    f"expected {', '.join(SPLITS)}, or name another column with --split-column"
                )
            splits.append(split)
        return name, splits

    def labels(self, columns: Columns, besides: Sequence[str]) -> Labels:
        """Return the labels: of the columns that are chosen, else of all but `besides`."""
        if columns.classes and columns.attributes:
            raise DataError(f"{self.source}: give either --class-column or --attributes")
        chosen = columns.attributes or tuple(name for name in self._names if name not in besides)
        if columns.classes:
            return self._classes(columns.classes)
        if not columns.attributes and len(chosen) == 1 and chosen[0] in (self.classes or {}):
            return self._classes(chosen[0])
        if not chosen:
            raise DataError(
                f"{self.source}: no column of attributes; for images without labels use --layout images"
            )
        for name in chosen:
            self._require(name)
        return Labels(chosen, np.stack([self.flags(name) for name in chosen], axis=1), False)

    def flags(self, name: str) -> npt.NDArray[np.int8]:
        """Return a column of -1, 0 and 1, or of truths, as int8 [N] in {0, 1}."""
        column = self.rows[name]
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            raise DataError(f"{self.source}: column {name!r} holds {column.type}{_CHOOSE}")
        words = pc.utf8_lower(pc.utf8_trim_whitespace(pc.cast(column, pa.string())))
        places = pc.fill_null(pc.index_in(words, pa.array(list(_FLAGS))), -1).to_numpy()
        wrong = np.flatnonzero(places < 0)
        if wrong.size:
            line, value = self.first_line + wrong[0], column[int(wrong[0])].as_py()
            raise DataError(
                f"{self.source}: line {line}, column {name!r} holds {quoted(value)}; expected -1, 0 or 1"
                + (f"; if it is the split, add --split-column {name!r}" if split_of(str(value)) else _CHOOSE)
            )
        return np.array(list(_FLAGS.values()), np.int8)[places]

    def _classes(self, name: str) -> Labels:
        self._require(name)
        column = self.rows[name]
        if pa.types.is_nested(column.type) or pa.types.is_floating(column.type):
            raise DataError(f"{self.source}: column {name!r} holds {column.type}, not names of classes")
        known = (self.classes or {}).get(name)
        values = []
        for line, value in enumerate(column.to_pylist(), start=self.first_line):
            text = "" if value is None else str(value).strip()
            if not text or (known and not 0 <= int(value) < len(known)):
                raise DataError(
                    f"{self.source}: line {line}, column {name!r} holds {quoted(value)}, which is no class"
                )
            values.append(known[int(value)] if known else text)
        numbers = all(value.isdecimal() for value in set(values))
        classes = sorted(set(values), key=lambda value: (int(value) if numbers else 0, value))
        return one_hot(values, classes, self.source)

    @property
    def _names(self) -> list[str]:
        return list(self.rows.column_names)

    def _usual(self, option: str, usual: tuple[str, ...]) -> str | None:
        found = [name for name in self._names if name.lower().replace(" ", "_") in usual]
        if len(found) > 1:
            raise DataError(
                f"{self.source}: {' and '.join(found)} may each be the column; choose with --{option}-column"
            )
        return found[0] if found else None

    def _require(self, name: str) -> None:
        if name not in self._names:
            raise DataError(
                f"{self.source}: no column {quoted(name)}{nearest(name, self._names)}; it has "
                f"{', '.join(self._names[:40])}"
            )


_LINE = re.compile(r"([^\r\n]*)(?:\r\n?|\n|\Z)")
_CHOOSE = "; choose columns of attributes with --attributes, or one of class names with --class-column"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def parse_table(content: bytes, name: str, source: str) -> Sheet:
    """Parse a file by the suffix of `name`. Cells of text files stay text."""
    try:
        if name.lower().endswith(".parquet"):
            rows = pyarrow.parquet.read_table(pa.BufferReader(content))
        elif name.lower().endswith(".jsonl"):
            rows = pyarrow.json.read_json(io.BytesIO(decode_text(content, source).encode()))
        else:
            rows = _parse_text(decode_text(content, source), source, tabs=name.lower().endswith(".tsv"))
    except pa.ArrowException as error:
        raise DataError(
            f"{source}: cannot be read as a table ({str(error).splitlines()[0][:200]}); write it again"
        ) from None
    rows = rows.rename_columns([unicodedata.normalize("NFC", column.strip()) for column in rows.column_names])
    repeated = {column for column in rows.column_names if rows.column_names.count(column) > 1}
    if repeated:
        raise DataError(f"{source}: the column {sorted(repeated)[0]!r} comes twice; remove one")
    text = name.lower().endswith((".csv", ".tsv"))
    return Sheet(_without_row_numbers(rows), source, 2 if text else 1)


def decode_text(content: bytes, source: str) -> str:
    """Return a text file's content, in UTF-8 or, with a mark that says so, UTF-16; DataError for another."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with suppress(UnicodeDecodeError):
        text = content.decode("utf-16" if marked else "utf-8-sig")
        if "\0" not in text:  # UTF-16 without its mark has them
            return text
    raise DataError(f"{source}: not a text file in UTF-8; save it as one, or fetch it again")


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line that is not blank, one at a time: a list would outweigh the text."""
    for number, line in enumerate(_LINE.finditer(text), start=1):
        if line[1].strip():
            yield number, line[1]


def _parse_text(text: str, source: str, *, tabs: bool) -> pa.Table:
    _, header = next(lines_of(text), (0, ""))
    separator = "\t" if tabs else next((mark for mark in ",;\t" if mark in header), ",")
    names = next(csv.reader([header], delimiter=separator), [])
    if file := next((name for name in names if name.strip().lower().endswith(IMAGE_SUFFIXES)), None):
        raise DataError(
            f"{source}: its first line names the file {quoted(file.strip())}, not columns; add a line of their names"
        )
    return pyarrow.csv.read_csv(
        io.BytesIO(text.encode()),
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter=separator),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def _without_row_numbers(rows: pa.Table) -> pa.Table:
    """Return the rows without an unnamed column that is empty or holds row numbers, which is pandas' index."""
    for name in rows.column_names:
        if name in ("", "__index_level_0__") or name.startswith("Unnamed:"):
            values = [str(value) for value in rows[name].to_pylist()]
            if values == [str(row) for row in range(len(rows))] or set(values) <= {"", "None"}:
                rows = rows.drop_columns([name])
    return rows
