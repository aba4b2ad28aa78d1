"""Tables, bars and messages. Everything samkit says goes through here."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..stages.reporting.table import Row

# A pipe has no width, and rich would cut at 80 columns what a log should keep whole.
_PIPE_COLUMNS = 160
# Below this the table of results leaves out what a reader can do without: the files of `report` have all of it.
_ALL_RESULTS_COLUMNS = 100
_SPARED_RESULTS = ("volumes", "IoU %", "fit s", "MB")
# Where long names leave no room even so.
_SPARED_NEXT = ("ASSD", "HD95")


def _width(*, terminal: bool) -> int | None:
    """Return how wide to print: None for a terminal, which knows; elsewhere ``COLUMNS``, or wide."""
    if terminal:
        return None
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) > 0 else _PIPE_COLUMNS


# Results go to standard output, everything about how it goes to standard error: so that `--json | jq` works.
output = Console(highlight=False, width=_width(terminal=sys.stdout.isatty()))
messages = Console(stderr=True, highlight=False, width=_width(terminal=sys.stderr.isatty()))
# Where there is no terminal to draw a bar on, a line this often says that it is still going.
_SECONDS_BETWEEN_LINES = 5.0
_SHARE_BETWEEN_LINES = 0.1
_LONGEST_SILENCE_SECONDS = 60.0


@dataclass(slots=True)
class _Manner:
    """How much is said; set by `be` at the start of every command."""

    #: No bars, and no lines that say how far something is.
    quiet: bool = False
    #: With where a refusal came from, and what libraries log.
    verbose: bool = False
    #: What a terminal shows until there is something to say: torch takes seconds to import.
    waiting: Status | None = None


_manner = _Manner()


def be(*, quiet: bool, verbose: bool) -> None:
    """Say less, or more, from now on."""
    _manner.quiet, _manner.verbose = quiet, verbose
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    if verbose and not logging.getLogger().handlers:
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")


def wait_for(what: str) -> None:
    """Show on a terminal that something is about to happen, until the first message."""
    if not _manner.quiet and messages.is_terminal:
        _manner.waiting = messages.status(_printable(what))
        _manner.waiting.start()


def no_longer_wait() -> None:
    """Take away what `wait_for` shows, if it does."""
    if _manner.waiting is not None:
        _manner.waiting.stop()
        _manner.waiting = None


def _printable(text: str) -> Text:
    """Return a text that every terminal takes: bytes of a file's name that are no text are shown as they are."""
    return Text(text.encode("utf-8", "backslashreplace").decode())


def say(text: str) -> None:
    """Tell the user something on standard output."""
    no_longer_wait()
    output.print(_printable(text), soft_wrap=True)


def warn(text: str) -> None:
    """Tell the user something that they should look at."""
    no_longer_wait()
    messages.print(Text.assemble(("warning: ", "yellow"), _printable(text)), soft_wrap=True)


def complain(text: str) -> None:
    """Tell the user why the command did not do what was asked."""
    no_longer_wait()
    messages.print(Text.assemble(("error: ", "bold red"), _printable(text)), soft_wrap=True)
    if _manner.verbose and sys.exc_info()[0] is not None:
        messages.print_exception(width=None)


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator[_Bar]:
    """Show a bar with rate and time left; plain lines where the output is no terminal."""
    no_longer_wait()
    if _manner.quiet or not messages.is_terminal:
        yield _Bar(what, total, unit, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, transient=True) as progress:
        yield _Bar(what, total, unit, progress)


class _Bar:
    """A bar on a terminal; elsewhere a line every few seconds."""

    def __init__(self, what: str, total: int, unit: str, progress: Progress | None) -> None:
        self._what, self._total, self._unit, self._progress = what, total, unit, progress
        self._done = 0
        self._spoke, self._told = time.monotonic(), 0
        self._task = None if progress is None else progress.add_task(what, total=total, unit=unit)

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more are done."""
        self.reach(self._what, self._done + count, self._total)

    def reach(self, what: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` are done; another ``what`` begins the bar anew."""
        self._what, self._done, self._total = what, done, total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what, completed=done, total=total)
        elif not _manner.quiet and self._is_news(done, total):
            self._spoke, self._told = time.monotonic(), done
            messages.print(Text(f"{what}: {done} of {total} {self._unit}"), soft_wrap=True)

    def _is_news(self, done: int, total: int) -> bool:
        """Return whether a log should have another line: after some seconds and a part of the work, or after long."""
        silent = time.monotonic() - self._spoke
        moved = abs(done - self._told) >= _SHARE_BETWEEN_LINES * total
        return silent > _SECONDS_BETWEEN_LINES and (moved or silent > _LONGEST_SILENCE_SECONDS)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers_from: int | None = 1,
    whole: Collection[str] = (),
) -> None:
    """Print a table; columns from ``numbers_from`` on are right-aligned (None: there are no numbers).

    Numbers are never wrapped, nor are the columns named in ``whole``.
    """
    no_longer_wait()
    # A line of its own: rich would break the title of a narrow table to the table's width.
    output.print(Text(title, style="bold"))
    shown = Table(header_style="bold", box=SIMPLE_HEAD, padding=0)
    for number, column in enumerate(columns):
        numeric = numbers_from is not None and number >= numbers_from
        justify: Literal["left", "right"] = "right" if numeric else "left"
        shown.add_column(column, justify=justify, no_wrap=numeric or column in whole)
        # A number that is cut off has to look so.
        shown.columns[-1].overflow = "ellipsis" if numeric else "fold"
    for row in rows:
        shown.add_row(*(_printable(cell) for cell in row))
    output.print(shown)


def results_table(rows: Sequence[Row]) -> None:
    """Print the tables of results, one an encoder's recipe: class by class, then the mean."""
    from ..stages.reporting.table import told_test_sets
    from ..store.runs import NO_ENCODER

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    columns = ["head", "class", "subjects", "volumes", "draws"]
    columns += ["Dice %", "± sd", "worst", "IoU %", "HD95", "ASSD", "missed", "fit s", "MB"]
    recipes = dict.fromkeys((row.encoder, row.recipe_id, row.encoder_trained, row.distance_unit) for row in rows)
    for encoder, recipe_id, trained, unit in recipes:
        cells = [
            [
                row.told_head,
                row.class_name,
                row.amount,
                str(row.volumes),
                row.told_draws,
                percent(row.dice.mean),
                percent(row.dice.standard_deviation),
                percent(row.dice.worst),
                percent(row.iou.mean),
                number(row.hd95.mean),
                number(row.assd.mean),
                str(row.prediction_empty),
                number(row.fitting_seconds),
                f"{row.peak_memory_bytes / 1e6:.0f}",
            ]
            for row in rows
            if (row.recipe_id, row.distance_unit) == (recipe_id, unit)
        ]
        kept = _fitting_columns(columns, cells)
        features = f"{encoder}{'' if trained else ' (seeded)'}, recipe {recipe_id}"
        if encoder == NO_ENCODER:
            features = "No encoder, the slices themselves"
        shown = f"{features}; distances in {unit}"
        table(
            f"Test subjects, at the source's resolution. {shown}",
            [columns[number] for number in kept],
            [[line[number] for number in kept] for line in cells],
            numbers_from=2,
            whole=("head", "class"),
        )
    if told := told_test_sets(rows):
        warn(told)


def _fitting_columns(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[int]:
    """Return the numbers of the columns that the width has room for, sparing one after another."""
    # A blank before each column.
    needs = {cells[0]: 1 + max(map(len, cells)) for cells in zip(columns, *lines, strict=True)}
    if output.width < _ALL_RESULTS_COLUMNS:
        needs = {name: width for name, width in needs.items() if name not in _SPARED_RESULTS}
    for name in (*_SPARED_RESULTS, *_SPARED_NEXT):
        if sum(needs.values()) + 1 > output.width:
            needs.pop(name, None)
    return [number for number, name in enumerate(columns) if name in needs]


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "shard"), counted(2, "shard")
    ('1 shard', '2 shards')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def readable_seconds(seconds: float) -> str:
    """Return a duration as people say it.

    >>> readable_seconds(42), readable_seconds(200), readable_seconds(9000)
    ('42 s', '3.3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def readable_bytes(count: int) -> str:
    """Return bytes as people read them.

    >>> readable_bytes(2_097_152)
    '2.1 MB'
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
