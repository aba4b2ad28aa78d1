"""Several volumes in one DICOM series: which slices belong together, and which volume to take. By headers alone.

Where a position holds several slices (echoes, b-values, moments), or the parts of a series are weighted differently,
the user chooses (`VolumeChoice`); nothing is chosen in silence. Slices of different positions are put together only by
what their headers say of it:

1. A field whose values are the same at every position marks the volumes: a temporal position, an echo time, a b-value,
   a heart's phase, an acquisition, the time of a whole volume.
2. Slices that no field marks are ranked by what grows at every position alike: times and InstanceNumbers. All of these
   have to agree, and one of them has to grow in step at all positions.

Whatever neither tells is refused. File names tell nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pydicom

from ...store.errors import UnreadableFile
from .dicom_headers import DAMAGE, FrameHeader, FrameTimes, quietly
from .slice_stack import clusters, normal_of, same_position_mm

__all__ = [
    "Chosen",
    "VolumeChoice",
    "has_marks",
    "one_volume",
    "pixel_digest",
    "shared_marks",
    "told_of_copies",
    "without_copies",
    "without_place",
]

Positions: TypeAlias = list[list[FrameHeader]]
"""Of each position, the slices that lie there."""
Values: TypeAlias = npt.NDArray[np.float64]
"""(positions, slices of one), of one header field; NaN where it is absent."""
Labels: TypeAlias = npt.NDArray[np.int64]
"""(positions, slices of one): which volume a slice is of, as far as that is known."""

_LISTED = 12
_B_VALUE_TOLERANCE = 1.0  # s/mm2: scanners write 999.9998
_ECHO_DECIMALS = 2  # of milliseconds
_ECHO_TOLERANCE_MS = 0.005
_TRIGGER_TOLERANCE_MS = 1.0
# Within one volume, echo times as headers round them. The next echo of a train is farther off.
_ONE_ECHO = 0.01  # of itself
_OUT_OF_STEP = 0.5  # of a step from one volume to the next
_DAY_SECONDS = 86400.0
# Slices of one scan that are said to be this much farther apart than they lie were not all made together.
_FARTHER_APART_THAN_THEY_LIE = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeChoice:
    """Which volume to take of a 4-D series, and how many slices make one."""

    time_index: int | None = None
    """The n-th of the volumes that are left, from 0."""
    b_value: float | None = None
    """s/mm2."""
    echo: int | None = None
    """The n-th echo time, from 1."""
    min_slices: int | None = None
    """Fewer are refused; None: fewer than 3 are, where the same study holds a larger series."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The slices of one volume."""

    frames: list[FrameHeader]
    """One a position."""
    notes: tuple[str, ...] = ()
    """What to tell of the choice."""
    chosen: tuple[tuple[str, int | float], ...] = ()
    """Which of the user's `VolumeChoice` it took, by name."""
    rivals: list[FrameHeader] = field(default_factory=list)
    """The slices of the other volumes of the series."""


def one_volume(frames: list[FrameHeader], choice: VolumeChoice) -> Chosen:
    """Choose the slices of one volume.

    Parameters
    ----------
    frames
        At least one, all of one matrix, orientation and pixel spacing; each has a position.

    Raises
    ------
    UnreadableFile
        Positions hold unlike numbers of slices; several volumes and no choice (the choices are listed); several
        volumes, and the headers do not tell which slices belong together.
    """
    notes: tuple[str, ...] = ()
    if not _is_single(_by_position(frames)):
        frames, notes = without_copies(frames)
    positions = _by_position(frames)
    if _is_single(positions):
        if (what := _of_several_weightings(frames)) is None:
            return Chosen(frames=frames, notes=(*notes, *_notes_on_packages(frames)))
    else:
        _require_volumes(frames, positions)
        what = None
    left, told, chosen = _by_weighting(frames, choice)
    found = _by_position(left)
    if not _is_single(found):
        count = _volumes_at(found, left)
        if choice.time_index is None:
            raise UnreadableFile(_choices(left, found))
        if not 0 <= choice.time_index < count:
            message = f"--time-index {choice.time_index}: there are {count} volumes, 0 to {count - 1}"
            raise UnreadableFile(message)
        left = _volumes(found)[choice.time_index]
        told.append(f"volume {choice.time_index} of {count}")
        chosen.append(("time_index", choice.time_index))
        _require_steady_acquisitions(left, found)
    elif not told:
        message = f"its slices have several {what}, and no position has two: scans of two kinds in one series. "
        raise UnreadableFile(message + _how_to_choose(frames))
    _require_one_weighting(left)
    note = f"4-D: {', '.join(told)} taken"
    if len(found) < len(positions):
        note += f"; it has {len(found)} of the {len(positions)} positions of its series"
    own = {id(frame) for frame in left}
    return Chosen(
        frames=left,
        notes=(*notes, note, *_notes_on_packages(left)),
        chosen=tuple(chosen),
        rivals=[frame for frame in frames if id(frame) not in own],
    )


def _is_single(positions: Positions) -> bool:
    return all(len(members) == 1 for members in positions)


def _by_position(frames: Sequence[FrameHeader]) -> Positions:
    """Group slices of one kind that lie at one place."""
    same_mm = same_position_mm(frames[0].spacing_mm or (1.0,))
    places = [tuple(x / same_mm for x in frame.position_mm or ()) for frame in frames]
    return [[frames[index] for index in group] for group in clusters(places)]


def _require_volumes(frames: Sequence[FrameHeader], positions: Positions) -> None:
    """Refuse slices that cannot be several volumes, whatever is chosen."""
    copies = [(frame.sop_uid, frame.index) for frame in frames if frame.sop_uid]
    if len(copies) == len(frames) and 1 < len(set(copies)) < len(copies):
        message = (
            f"duplicate positions: {len(frames)} slices lie at {len(positions)} position(s), and some are unlike "
            f"copies of each other (one SOPInstanceUID, other pixels or another header): keep one of each"
        )
        raise UnreadableFile(message)
    if len(positions) == 1:
        message = (
            f"duplicate positions, not a volume: all {len(frames)} slices lie at one position{_what_differs(frames)}: "
            f"bolus timing, perfusion or a cine loop"
        )
        raise UnreadableFile(message)


def _by_weighting(
    frames: list[FrameHeader], choice: VolumeChoice
) -> tuple[list[FrameHeader], list[str], list[tuple[str, int | float]]]:
    """Return the slices of the echo and b-value asked for, what to tell of that, and which choices it took."""
    left, told = frames, []
    chosen: list[tuple[str, int | float]] = []
    echoes = _echoes(frames)
    if choice.echo is not None and len(echoes) > 1:
        if not 1 <= choice.echo <= len(echoes):
            message = f"--echo {choice.echo}: there are {len(echoes)} echo times: {_echo_choices(echoes)}"
            raise UnreadableFile(message)
        wanted = echoes[choice.echo - 1]
        left = [frame for frame in left if _echoes([frame]) == [wanted]]
        told.append(f"echo {choice.echo} of {len(echoes)} ({wanted:g} ms)")
        chosen.append(("echo", choice.echo))
    b_values = _b_values(left)
    if choice.b_value is not None and len(b_values) > 1:
        near = [
            frame
            for frame in left
            if frame.times.b_value is not None and abs(frame.times.b_value - choice.b_value) <= _B_VALUE_TOLERANCE
        ]
        if not near:
            message = f"--b-value {choice.b_value:g}: the b-values of this series are {_listed(b_values)} s/mm2"
            raise UnreadableFile(message)
        left = near
        told.append(f"b-value {choice.b_value:g} s/mm2 of {_listed(b_values)}")
        chosen.append(("b_value", choice.b_value))
    return left, told, chosen


def _volumes_at(positions: Positions, frames: Sequence[FrameHeader]) -> int:
    """Return how many slices each position holds; refuse positions that hold unlike numbers."""
    counts = Counter(len(members) for members in positions)
    if len(counts) == 1:
        return next(iter(counts))
    usual, _ = counts.most_common(1)[0]
    odd = next(members for members in positions if len(members) != usual)
    weightings = _weightings_to_choose(frames)
    message = (
        f"duplicate positions: {len(positions)} positions hold between {min(counts)} and {max(counts)} slices; "
        f"{odd[0].told} lies where {len(odd)} do, most positions hold {usual}. Slices are missing, or two scans are "
        f"mixed{_what_differs(frames)}{f'. Choose one: {weightings}' if weightings else ''}"
    )
    raise UnreadableFile(message)


# -- which slices belong together ------------------------------------------------------------------


def _volumes(positions: Positions) -> list[list[FrameHeader]]:
    """Put the slices of each volume together, one a position: volumes in order, slices in that of the positions.

    Raises
    ------
    UnreadableFile
        The headers do not tell, or contradict each other.
    """
    labels = _marked(positions)
    order = np.argsort(labels, axis=1, kind="stable")
    grid = [[members[place] for place in places] for members, places in zip(positions, order, strict=True)]
    sizes = np.bincount(labels[0])
    volumes: list[list[FrameHeader]] = []
    for first, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        cell = [members[first : first + size] for members in grid]
        ranked = _ranked(cell) if size > 1 else cell
        volumes += [list(volume) for volume in zip(*ranked, strict=True)]
    return volumes


def _marked(positions: Positions) -> Labels:
    """Label slices by the fields that mark volumes: their values are the same ones at every position."""
    labels: Labels = np.zeros((len(positions), len(positions[0])), dtype=np.int64)
    used: list[str] = []
    for name, levels in _fields(positions):
        _, both = np.unique(labels * (levels.max() + 1) + levels, return_inverse=True)
        both = both.reshape(labels.shape)
        if _are_alike(both):
            used += [name] if both.max() > labels.max() else []
            labels = both
        elif _are_alike(levels) and name not in _NUMBERINGS:
            message = _untold(positions, f"{' and '.join([*used, name])} contradict each other")
            raise UnreadableFile(message)
    return labels


def _are_alike(labels: Labels) -> bool:
    """Tell whether all positions hold the same labels, in any order."""
    ordered = np.sort(labels, axis=1)
    return bool((ordered == ordered[0]).all())


_NUMBERINGS = frozenset({"InstanceNumber", "the frame's number"})
"""They mark volumes where nothing else does: each software numbers as it likes."""
_SAID_OF_VOLUMES = ("ImageType", "EchoTime", "TemporalPosition", "b-value", "AcquisitionNumber")


def _fields(positions: Positions) -> list[tuple[str, Labels]]:
    """Return what may mark volumes, by name: the values as levels from 0, in the order in which volumes are sorted."""
    times = [[frame.times for frame in members] for members in positions]
    kinds = sorted({frame.image_type for members in positions for frame in members})
    dimensions = max(len(one.dimensions) for members in times for one in members)

    def levels(of: Callable[[FrameHeader], float | None], tolerance: float = 0.0) -> Labels:
        return _levels(_values(positions, of), tolerance)

    return [
        ("ImageType", levels(lambda frame: kinds.index(frame.image_type))),
        ("EchoTime", levels(lambda frame: frame.times.echo_ms, _ECHO_TOLERANCE_MS)),
        ("TemporalPosition", levels(lambda frame: frame.times.temporal_position)),
        ("b-value", levels(lambda frame: frame.times.b_value, _B_VALUE_TOLERANCE)),
        ("TriggerTime", levels(lambda frame: frame.times.trigger_ms, _TRIGGER_TOLERANCE_MS)),
        ("AcquisitionNumber", levels(lambda frame: frame.times.acquisition)),
        ("the time", _levels(_clock(positions), 0.0)),
        *(("DimensionIndexValues", levels(partial(_dimension, place))) for place in range(dimensions)),
        ("InstanceNumber", levels(lambda frame: frame.number)),
        ("the frame's number", levels(lambda frame: frame.index)),
    ]


def _dimension(place: int, frame: FrameHeader) -> float | None:
    return frame.times.dimensions[place] if place < len(frame.times.dimensions) else None


def _values(positions: Positions, of: Callable[[FrameHeader], float | None]) -> Values:
    found = [[of(frame) for frame in members] for members in positions]
    return np.array([[np.nan if one is None else one for one in members] for members in found], dtype=np.float64)


def _levels(values: Values, tolerance: float) -> Labels:
    """Give values that differ by more than rounding numbers from 1 upwards, and absent ones 0."""
    there = np.unique(values[~np.isnan(values)])
    starts: list[float] = []
    for value in there:
        if not starts or value - starts[-1] > 2 * tolerance:
            starts.append(float(value))
    # NaN is sorted behind all numbers.
    levels = np.searchsorted(np.array(starts), values, side="right")
    return np.where(np.isnan(values), 0, levels).astype(np.int64)


def _ranked(cell: Positions) -> Positions:
    """Sort slices that no field tells apart by what grows at all positions: times and numbers, where they agree.

    Raises
    ------
    UnreadableFile
        Nothing grows in step at all positions, or what grows does not agree.
    """
    growing = _growing(cell)
    in_step = [name for name, values in growing.items() if _is_in_step(values, cycle=name == "TriggerTime")]
    if not in_step:
        raise UnreadableFile(_untold(cell, "nothing in them grows from one volume to the next at every position"))
    order = np.argsort(growing[in_step[0]], axis=1)
    for name, values in growing.items():
        # The breath triggers when it likes; a heart's phases are in step.
        told = name in in_step or name != "TriggerTime"
        if told and (np.diff(np.take_along_axis(values, order, axis=1), axis=1) < 0).any():
            raise UnreadableFile(_untold(cell, f"{in_step[0]} and {name} give them different orders"))
    return [[members[place] for place in places] for members, places in zip(cell, order, strict=True)]


def _growing(cell: Positions) -> dict[str, Values]:
    """Return what may rank volumes, by name, the surest first."""
    found = {
        "the time": _clock(cell),
        "AcquisitionNumber": _values(cell, lambda frame: frame.times.acquisition),
        "TriggerTime": _values(cell, lambda frame: frame.times.trigger_ms),
    }
    numbers, indices = _values(cell, lambda frame: frame.number), _values(cell, lambda frame: frame.index)
    if not np.isnan(numbers).all():
        indices += numbers * (indices.max() + 1)
    if len(np.unique(indices)) == indices.size:  # else each volume, or each position, has numbers of its own
        found["InstanceNumber"] = indices
    return found


def _is_in_step(values: Values, *, cycle: bool) -> bool:
    """Tell whether values grow from volume to volume by steps that are nearly the same at all positions.

    And whether no slice of a volume comes before one of the volume before it, among those positions that were scanned
    together; not for a `cycle`, which begins anew at each position. A slice that is lost shows as a step twice as long.
    """
    ordered = np.sort(values, axis=1)
    steps = np.diff(ordered, axis=1)
    if not (steps > 0).all():  # nor where a value is absent
        return False
    if (np.ptp(steps, axis=0) > _OUT_OF_STEP * steps.min(axis=0)).any():
        return False
    return cycle or all(
        bool((together[:, :-1].max(axis=0) < together[:, 1:].min(axis=0)).all()) for together in _together(ordered)
    )


def _together(ordered: Values) -> list[Values]:
    """Split positions into those that were scanned together: the ranges of their values overlap.

    All of them in most series, and each by itself where a scanner finishes one position before the next.
    """
    by_start = ordered[np.argsort(ordered[:, 0], kind="stable")]
    ends = np.maximum.accumulate(by_start[:, -1])
    return np.split(by_start, np.flatnonzero(by_start[1:, 0] > ends[:-1]) + 1)


def _untold(positions: Positions, why: str) -> str:
    uneven = [
        name
        for name, levels in _fields(positions)
        if name in _SAID_OF_VOLUMES and np.ptp(levels, axis=1).any() and not _are_alike(levels)
    ]
    why += f", and not all positions hold the same {', '.join(uneven)}" if uneven else ""
    return (
        f"4-D: {len(positions[0])} volumes of {len(positions)} slices in one series, and their headers do not tell "
        f"which slices belong together: {why}. A field that is alike in all slices of one volume would "
        f"(TemporalPositionIdentifier, EchoTime, b-value, TriggerTime, AcquisitionNumber), or times and "
        f"InstanceNumbers that agree. Else give each volume a folder of its own, e.g. by reconstruction kernel"
    )


def _clock(positions: Positions) -> Values:
    """Return times of acquisition in seconds; NaN where they are of two kinds, with a date and without."""
    read = [[_seconds(frame.times.clock) for frame in members] for members in positions]
    dated = {one[1] for members in read for one in members if one is not None}
    if len(dated) > 1:
        return np.full((len(positions), len(positions[0])), np.nan)
    seconds = np.array([[np.nan if one is None else one[0] for one in members] for members in read])
    return seconds if True in dated else _over_midnight(seconds)


_TIME = re.compile(r"(\d{8})?(\d\d)(\d\d)(\d\d)(\.\d+)?")


def _seconds(clock: str) -> tuple[float, bool] | None:
    """Return a DICOM time or date and time in seconds, and whether it has a date; None where it is not whole."""
    found = _TIME.match(clock.replace(":", ""))
    if found is None:
        return None
    day, hours, minutes, seconds, fraction = found.groups()
    time = int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(fraction or 0)
    if day is None:
        return time, False
    try:
        days = date(int(day[:4]), int(day[4:6]), int(day[6:])).toordinal()
    except ValueError:
        return None
    return days * _DAY_SECONDS + time, True


def _over_midnight(seconds: Values) -> Values:
    """Put times of day that follow midnight after those before it: where a gap of half a day lies between."""
    there = np.unique(seconds[~np.isnan(seconds)])
    gaps = np.diff(there)
    if not gaps.size or gaps.max() <= _DAY_SECONDS / 2:
        return seconds
    return np.where(seconds <= there[gaps.argmax()], seconds + _DAY_SECONDS, seconds)


# -- what a volume may be made of ------------------------------------------------------------------


def _of_several_weightings(frames: Sequence[FrameHeader]) -> str | None:
    """Say of which kinds slices are several that one volume has one of; None where it may be one volume."""
    if _differ([frame.times.echo_ms for frame in frames], 2 * _ECHO_TOLERANCE_MS, _ONE_ECHO):
        return "echo times"
    if _differ([frame.times.b_value for frame in frames], 2 * _B_VALUE_TOLERANCE):
        return "b-values"
    return None


def _differ(values: Sequence[float | None], within: float, part: float = 0.0) -> bool:
    """Tell whether values differ by more than a tolerance (or a part of the largest); absent and zero are alike."""
    if None in values and not any(values):
        return False
    there = [value for value in values if value is not None]
    return None in values or max(there) - min(there) > max(within, part * max(there))


def _require_one_weighting(frames: Sequence[FrameHeader]) -> None:
    """Refuse a volume whose slices are of several echoes, b-values, moments or kinds: positions do not hold the same.

    It is refused, too, where it has one slice a position.
    """
    what = _of_several_weightings(frames)
    if what is None and len({frame.times.temporal_position for frame in frames}) > 1:
        what = "temporal positions"
    if what is None and len({frame.image_type for frame in frames}) > 1:
        what = "ImageTypes"
    if what is None:
        return
    option = {"echo times": "--echo", "b-values": "--b-value"}.get(what)
    message = (
        f"4-D, and the slices of that volume have several {what}: slices are missing, or two scans are mixed. "
        f"{f'Choose by {option} too' if option else 'Give each scan a folder of its own'}"
    )
    raise UnreadableFile(message)


def _require_steady_acquisitions(frames: Sequence[FrameHeader], positions: Positions) -> None:
    """Refuse a volume of several acquisitions, unless these go with the position (packages), or count slices."""
    if len({frame.times.acquisition for frame in frames}) == 1:
        return
    values = np.sort(_values(positions, lambda frame: frame.times.acquisition), axis=1)
    for together in _together(values):
        if not ((together == together[0]).all() or len(np.unique(together)) == together.size):
            message = (
                "4-D, and the slices of that volume have several AcquisitionNumbers, not the same at all positions: "
                "slices are missing, or two scans are mixed. Give each scan a folder of its own"
            )
            raise UnreadableFile(message)


def _notes_on_packages(frames: Sequence[FrameHeader]) -> tuple[str, ...]:
    """Tell of acquisitions or moments that take turns along a stack; refuse those that are no packages of one scan.

    Scanners measure every other slice first, and then those between. Acquisitions one behind the other are usual.
    """
    orientation = frames[0].orientation
    if len(frames) < 4 or orientation is None:
        return ()
    along = np.array([frame.position_mm for frame in frames]) @ normal_of(orientation)
    ordered = [frames[index] for index in np.argsort(along, kind="stable")]
    step_mm = float(np.ptp(along)) / (len(frames) - 1)
    if _take_turns([frame.times.temporal_position for frame in ordered]):
        message = (
            f"slices of several temporal positions take turns along the stack, as near as "
            f"{np.diff(np.sort(along)).min():.3g} mm: volumes moved against each other lie in one series. Give each a "
            f"folder of its own"
        )
        raise UnreadableFile(message)
    if not _take_turns([frame.times.acquisition for frame in ordered]):
        return ()
    stated_mm = min((frame.between_slices_mm for frame in frames if frame.between_slices_mm is not None), default=0.0)
    if stated_mm > _FARTHER_APART_THAN_THEY_LIE * step_mm:
        message = (
            f"slices of several AcquisitionNumbers take turns along the stack every {step_mm:.4g} mm, and each of them "
            f"is said to be {stated_mm:.4g} mm thick or from the next: scans moved against each other lie in one "
            f"series. Give each a folder of its own"
        )
        raise UnreadableFile(message)
    return ("slices of several AcquisitionNumbers take turns along the stack: taken as packages of one scan",)


def _take_turns(values: Sequence[int | None]) -> bool:
    """Tell whether a value comes back after others."""
    runs = 1 + sum(one != other for one, other in pairwise(values))
    return runs > len(set(values))


# -- what to say -----------------------------------------------------------------------------------


def _echoes(frames: Iterable[FrameHeader]) -> list[float]:
    """Return the echo times, in ms, ascending."""
    return sorted({round(frame.times.echo_ms, _ECHO_DECIMALS) for frame in frames if frame.times.echo_ms is not None})


def _b_values(frames: Iterable[FrameHeader]) -> list[int]:
    """Return the b-values, in s/mm2, ascending."""
    return sorted({round(frame.times.b_value) for frame in frames if frame.times.b_value is not None})


def _choices(frames: Sequence[FrameHeader], positions: Positions) -> str:
    """List what may be typed to choose one of several volumes; say so where their slices cannot be put together."""
    count, weightings = len(positions[0]), _weightings_to_choose(frames)
    try:
        _volumes(positions)
    except UnreadableFile as error:
        return f"{error}{f'. Or choose {weightings}' if weightings else ''}"
    return (
        f"4-D: {count} volumes of {len(positions)} slices in one series{_what_differs(frames)}. Choose one: "
        f"{f'{weightings}, or ' if weightings else ''}--time-index 0 to {count - 1}"
    )


def _how_to_choose(frames: Sequence[FrameHeader]) -> str:
    weightings = _weightings_to_choose(frames)
    return f"Choose one: {weightings}" if weightings else "Give each a folder of its own"


def _weightings_to_choose(frames: Sequence[FrameHeader]) -> str:
    echoes, b_values = _echoes(frames), _b_values(frames)
    choices = [f"--echo {_echo_choices(echoes)}"] if len(echoes) > 1 else []
    choices += [f"--b-value {_listed(b_values)}"] if len(b_values) > 1 else []
    return ", or ".join(choices)


def _echo_choices(echoes: Sequence[float]) -> str:
    return ", ".join(f"{number} ({echo:g} ms)" for number, echo in enumerate(echoes[:_LISTED], start=1))


def _listed(values: Sequence[int]) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > _LISTED else ""
    return ", ".join(str(value) for value in values[:_LISTED]) + more


def _what_differs(frames: Sequence[FrameHeader]) -> str:
    """Name the header fields (not their values) that tell the volumes of a mixed series apart."""
    fields: dict[str, set[object]] = {
        "ImageType": {frame.image_type for frame in frames},
        "EchoTime": {frame.times.echo_ms for frame in frames},
        "b-value": {frame.times.b_value for frame in frames},
        "TemporalPosition": {frame.times.temporal_position for frame in frames},
        "TriggerTime": {frame.times.trigger_ms for frame in frames},
        "AcquisitionNumber": {frame.times.acquisition for frame in frames},
    }
    differing = [name for name, values in fields.items() if len(values) > 1]
    return f" (what differs: {', '.join(differing)})" if differing else ""


# -- what all slices of a volume share -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mark:
    """An attribute that tells the volumes of a series apart."""

    of: Callable[[FrameTimes], float | None]
    tolerance: float = 0.0
    """How far slices of one volume may lie from the middle one."""
    decimals: int = 0


_MARKS: Mapping[str, _Mark] = {
    "echo": _Mark(of=lambda times: times.echo_ms, tolerance=_ECHO_TOLERANCE_MS, decimals=_ECHO_DECIMALS),
    "b-value": _Mark(of=lambda times: times.b_value, tolerance=_B_VALUE_TOLERANCE),
    "temporal position": _Mark(of=lambda times: times.temporal_position),
    "trigger": _Mark(of=lambda times: times.trigger_ms, tolerance=_TRIGGER_TOLERANCE_MS),
    "acquisition": _Mark(of=lambda times: times.acquisition),
}


def shared_marks(frames: Sequence[FrameHeader]) -> dict[str, float]:
    """Return those marks (echo, b-value, moment) that all slices bear alike, by name: the middle one, rounded."""
    shared = {}
    for name, mark in _MARKS.items():
        values = sorted(value for frame in frames if (value := mark.of(frame.times)) is not None)
        if len(values) == len(frames) and values[-1] - values[0] <= 2 * mark.tolerance:
            shared[name] = round(float(values[len(values) // 2]), mark.decimals)
    return shared


def has_marks(frame: FrameHeader, shared: Mapping[str, float]) -> bool:
    """Tell whether a slice bears the marks that a volume's slices share."""
    for name, value in shared.items():
        own = _MARKS[name].of(frame.times)
        if own is None or abs(own - value) > 2 * _MARKS[name].tolerance:
            return False
    return True


# -- copies ----------------------------------------------------------------------------------------


def without_copies(frames: list[FrameHeader]) -> tuple[list[FrameHeader], tuple[str, ...]]:
    """Leave out frames that are there twice (one header, the same pixels), and return a note on them."""
    alike: dict[FrameHeader, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        alike[without_place(frame)].append(frame)
    digests: dict[Path, bytes] = {}
    kept: dict[tuple[FrameHeader, bytes], FrameHeader] = {}
    for header, rivals in alike.items():
        for frame in rivals:
            if len(rivals) > 1 and frame.path not in digests:
                digests[frame.path] = pixel_digest(frame.path)
            kept.setdefault((header, digests.get(frame.path, b"")), frame)
    first = set(kept.values())
    surplus = {frame.path for frame in frames if frame not in first}
    return [frame for frame in frames if frame in first], told_of_copies(len(surplus))


def without_place(frame: FrameHeader) -> FrameHeader:
    """Return a frame as a copy of its file in another place has it too."""
    return replace(frame, path=Path(), offset=None)


def told_of_copies(count: int) -> tuple[str, ...]:
    """Return the note on files that were left out; none of none."""
    return (f"{count} file(s) are copies of others and were left out",) if count else ()


def pixel_digest(path: Path) -> bytes:
    """Return a hash of a file's pixels as stored; of what cannot be read, one that no other file has."""
    try:
        with quietly():
            pixels = pydicom.dcmread(path, force=True, specific_tags=["PixelData"]).PixelData
    except DAMAGE:
        pixels = os.fsencode(path)
    return hashlib.sha256(pixels).digest()
