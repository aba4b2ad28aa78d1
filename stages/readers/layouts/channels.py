"""Channels of loose files, one a file: nnU-Net's ``_0000``, ``_0001`` where no layout says that they are that.

Numbers at the end of names are those of patients as a rule. They are taken for channels only where one was asked for,
and in files that do not hold several volumes, among which it would choose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..naming import stem
from .base import LayoutOptions, counted_files
from .files import case_and_channel, measured

__all__ = ["LooseChannels", "channels_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LooseChannels:
    """Which files are the channel that was asked for, and which are others; files in none of these have no channels."""

    cases: dict[Path, str] = field(default_factory=dict)
    """What each file of the channel is called without it."""
    several: frozenset[Path] = frozenset()
    """Those of them that were chosen among several."""
    left_out: dict[Path, Path] = field(default_factory=dict)
    """Each other file of a case, and the one that was chosen, or refused, in its place."""
    refused: dict[Path, str] = field(default_factory=dict)
    """The first file of a case that does not have the channel, and the reason."""

    def of_case(self, folder: Path, case: str) -> Path | None:
        """Return the file of a case in a folder."""
        return next((path for path, name in self.cases.items() if (path.parent, name) == (folder, case)), None)

    def notes(self, options: LayoutOptions) -> tuple[str, ...]:
        """Say what was left out."""
        if not self.left_out:
            return ()
        there = counted_files(len(self.left_out))
        return (
            f"channel {options.channel} taken by the ends of names (_0000, _0001, ...): {there} of others left out",
        )


def channels_of(images: Sequence[Path], options: LayoutOptions) -> LooseChannels:
    """Group loose images by case, and take the channel that was asked for.

    Parameters
    ----------
    images
        No labels.
    options
        Without `LayoutOptions.channel`, nothing has channels.
    """
    if options.channel is None:
        return LooseChannels()
    cases: dict[tuple[Path, str], dict[int, Path]] = defaultdict(dict)
    for path in images:
        split = case_and_channel(stem(path))
        if split is not None and measured(path).volumes == 1:
            cases[path.parent, split[0]].setdefault(split[1], path)
    taken: dict[Path, str] = {}
    several: set[Path] = set()
    left_out: dict[Path, Path] = {}
    refused: dict[Path, str] = {}
    for (_, case), there in cases.items():
        if options.channel_is_preferred and 0 not in there:
            continue  # numbers of patients: channels begin at 0, and nobody said that these are any
        chosen = there.get(options.channel)
        first = chosen or there[min(there)]
        left_out |= {path: first for path in there.values() if path != first}
        if chosen is None:
            refused[first] = _lacking(options.channel, sorted(there))
        else:
            taken[chosen] = case
            several |= {chosen} if len(there) > 1 else set()
    return LooseChannels(cases=taken, several=frozenset(several), left_out=left_out, refused=refused)


def _lacking(channel: int, there: Sequence[int]) -> str:
    return (
        f"there is no channel {channel} of this case (_{channel:04d}); it has {', '.join(map(str, there))}. If the "
        f"number at the end of its name is no channel, give the file another name"
    )
