"""How others write who is in which part: tables, and lists of names as in nnU-Net's splits_final.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...store.errors import InputError, UsageError
from ..console import counted

# In nnU-Net's files "val" is what a model is scored on.
_PARTS = {
    **dict.fromkeys(("pool", "train", "training"), "pool"),
    **dict.fromkeys(("test", "val", "validation"), "test"),
    **dict.fromkeys(("unused", "excluded"), "unused"),
}
_SUBJECT_COLUMNS = ("subject", "patient", "volume", "case", "id")
_PART_COLUMNS = ("part", "split")


def read_text(file: Path) -> str:
    """Read a text in UTF-8.

    Raises
    ------
    InputError
        When it cannot be.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file}: cannot be read as a text in UTF-8 ({error})."
        raise InputError(message) from error


def read_parts(file: Path, fold: int | None) -> tuple[dict[str, str], int]:
    """Read who is in which part, and the seed of draws where the file has one.

    Parameters
    ----------
    file
        CSV with a column of subjects (or volumes) and one of parts; or JSON with a list of them for each part, as
        samkit keeps it or as nnU-Net does in splits_final.json, where there is one such object a fold.
    fold
        Which of several.

    Returns
    -------
    parts
        ``pool``, ``test`` or ``unused`` by subject or volume.
    seed
        Of the draws.

    Raises
    ------
    InputError
        For a file that is neither, or names somebody in two parts.
    UsageError
        When a fold is asked for that there is not, or none of several.
    """
    text = read_text(file)
    if file.suffix.lower() != ".json":
        if fold is not None:
            message = f"--fold {fold}: a table holds one split. Leave the flag out."
            raise UsageError(message)
        return _of_pairs(file, table_rows(file, text, _PART_COLUMNS)), 0
    try:
        told = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{file}: not JSON ({error})."
        raise InputError(message) from error
    if isinstance(told, list):
        if not told:
            message = f"{file}: it holds no split."
            raise InputError(message)
        if fold is None or not 0 <= fold < len(told):
            choice = "--fold 0" if len(told) == 1 else f"--fold 0 to --fold {len(told) - 1}"
            message = f"{file}: it holds {counted(len(told), 'split')}. Choose one: {choice}"
            raise UsageError(message)
        told = told[fold]
    elif fold is not None:
        message = f"--fold {fold}: {file} holds one split. Leave the flag out."
        raise UsageError(message)
    if not isinstance(told, dict):
        message = f"{file}: give an object with lists of subjects, pool and test (or nnU-Net's train and val)."
        raise InputError(message)
    lists = {part: names for part, names in told.items() if part in _PARTS}
    if not all(isinstance(names, list) and all(isinstance(one, str) for one in names) for names in lists.values()):
        message = f"{file}: {' and '.join(lists)} have to be lists of names."
        raise InputError(message)
    seed = told.get("seed", 0)
    if not isinstance(seed, int):
        message = f"{file}: its seed is {seed!r}, not a whole number."
        raise InputError(message)
    return _of_pairs(file, ((one, part) for part, names in lists.items() for one in names)), seed


def table_rows(file: Path, text: str, value_columns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (subject or volume, value) of each line of a CSV file, by the names of its columns.

    Raises
    ------
    InputError
        When it has no such columns, or a line has too few.
    """
    lines = csv.DictReader(io.StringIO(text))
    columns = lines.fieldnames or []
    subject = next((name for name in _SUBJECT_COLUMNS if name in columns), None)
    value = next((name for name in value_columns if name in columns), None)
    if subject is None or value is None:
        message = (
            f"{file}: its first line names the columns {', '.join(columns) or '(none)'}. It needs one of "
            f"{', '.join(_SUBJECT_COLUMNS)}, and one of {', '.join(value_columns)}."
        )
        raise InputError(message)
    for line in lines:
        if line[subject] is None or line[value] is None:
            message = f"{file}: line {lines.line_num} has fewer columns than the first."
            raise InputError(message)
        yield line[subject].strip(), line[value].strip()


def _of_pairs(file: Path, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the part of each name, the parts by samkit's own names."""
    parts: dict[str, str] = {}
    for one, told in pairs:
        if told not in _PARTS:
            message = f"{file}: {one} is in the part {told!r}. The parts are {', '.join(_PARTS)}."
            raise InputError(message)
        if parts.setdefault(one, _PARTS[told]) != _PARTS[told]:
            message = f"{file}: {one} is in the part {parts[one]} and in {_PARTS[told]}."
            raise InputError(message)
    if not parts:
        message = f"{file}: nobody is named in it. Parts are called {', '.join(_PARTS)}."
        raise InputError(message)
    return parts
