"""The volumes index: a log of small segments, each created if absent, so that two ingests never overwrite each other.

Segment n holds what one commit added, changed or removed. A snapshot holds what all
segments up to n add up to, so that opening reads few files. Lines are parsed when a volume
is asked for: a hundred thousand of them are only cut apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .documents import canonical_json, parse_json, read_sealed_lines, sealed_json, sealed_lines, unsealed
from .errors import DamagedStore, StoreError
from .keys import FORMAT_VERSION, refuse_later_format
from .places import Place

# A snapshot is written when so many segments have come since the last one.
_SEGMENTS_BETWEEN_SNAPSHOTS = 32
# How often a listing is taken anew when a file of it has gone meanwhile.
_LOOKS = 3
# How often a commit tries again when others commit at the same moment.
_TRIES = 100

_SEGMENT = re.compile(r"(\d{8})\.jsonl")
_SNAPSHOT = re.compile(r"(\d{8})\.snapshot\.jsonl")
_HEAD = "head.json"
_REMEDY = "Restore the folder from a copy, or remove it and ingest the dataset again; embeddings stay valid."


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexState:
    """What the index says."""

    #: The line of each volume, by id; as `VolumesIndex.read` returns it, in the order of the ids.
    lines: Mapping[str, bytes] = field(default_factory=dict)
    #: Label value to name, background left out; None while nothing labelled has been ingested.
    label_names: Mapping[int, str] | None = None
    #: The number of the last segment; 0 before the first.
    segment: int = 0
    #: The seal of the last segment.
    seal: str | None = None
    #: The number of the newest snapshot; 0 before the first.
    snapshot: int = 0

    def record(self, volume_id: str) -> Any:  # noqa: ANN401 - JSON is whatever the line holds
        """Return what a volume's line says."""
        return json.loads(self.lines[volume_id])[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexChange:
    """What a commit adds to the index."""

    #: Volumes to add or replace, by id.
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Ids of volumes to take out.
    removed: Iterable[str] = ()
    #: New names of the label values; None leaves them.
    label_names: Mapping[int, str] | None = None


class VolumesIndex:
    """The log in one folder."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self._known = IndexState()
        self._damaged: set[str] = set()

    def read(self) -> IndexState:
        """Read what has come since the last look: the newest snapshot, where it is ahead, and the segments after it.

        Raises
        ------
        DamagedStore
            When a file was changed, or one is gone that others follow.
        NewerFormat
            When a later samkit wrote it.
        """
        gone: list[str] = []
        for _ in range(_LOOKS):
            # Before the listing: what it tells of was there before it was written.
            head = self.folder.read_children([_HEAD]).get(_HEAD)
            wanted, newest = self._unread()
            contents = self.folder.read_children(wanted)
            if gone := [name for name in wanted if name not in contents]:
                continue  # `gc` has removed it, and a newer snapshot is listed by the next look
            state = self._known
            try:
                for name in wanted:
                    state = self._with(state, name, contents[name])
            except DamagedStore:
                snapshot = wanted[0] if wanted else ""
                if (
                    not _SNAPSHOT.fullmatch(snapshot)
                    or snapshot in self._damaged
                    or not self._is_whole_without(snapshot)
                ):
                    raise
                self._damaged.add(snapshot)  # `verify` says so; the segments say the same
                continue
            if head is not None:
                self._check_head(state, head)
            self._known = replace(state, lines=dict(sorted(state.lines.items())), snapshot=max(newest, state.snapshot))
            return self._known
        message = f"{self.folder / gone[0]} is gone. {_REMEDY}" if gone else f"{self.folder}: {_REMEDY}"
        raise DamagedStore(message)

    def _unread(self) -> tuple[list[str], int]:
        """Return the files to be read on top of what is known, and the number of the newest snapshot."""
        names = self.folder.children()
        usable = [name for name in names if name not in self._damaged]
        snapshots = [int(found[1]) for name in usable if (found := _SNAPSHOT.fullmatch(name))]
        segments = sorted(int(found[1]) for name in names if (found := _SEGMENT.fullmatch(name)))
        known, newest = self._known.segment, max(snapshots, default=0)
        ahead = newest > known and not set(range(known + 1, newest + 1)) <= set(segments)
        start = newest if ahead or (newest and not known) else known
        wanted = [_snapshot_name(newest)] if start > known else []
        return [*wanted, *(_segment_name(number) for number in segments if number > start)], newest

    def _check_head(self, state: IndexState, head: bytes) -> None:
        """Refuse a log whose end is gone."""
        place = self.folder / _HEAD
        remedy = "Remove it: it only tells how long the log is."
        kept = unsealed(parse_json(head, place, remedy), place, ("segment",), remedy)
        if state.segment < kept["segment"]:
            message = (
                f"{self.folder}: the log ends at segment {state.segment} and had {kept['segment']} segments: "
                f"{_segment_name(state.segment + 1)} is gone. {_REMEDY}"
            )
            raise DamagedStore(message)

    def append(self, decide: Callable[[IndexState], IndexChange]) -> IndexState:
        """Add a segment.

        Parameters
        ----------
        decide
            What to add to the state it is given. Called again when somebody else has committed meanwhile.

        Returns
        -------
        IndexState
            The state with it.
        """
        for _ in range(_TRIES):
            before = self.read()
            change = decide(before)
            name = _segment_name(before.segment + 1)
            data = _segment(before, change)
            if (self.folder / name).publish_if_absent(data):
                after = self._with(before, name, data)
                self._known = after = replace(after, lines=dict(sorted(after.lines.items())))
                (self.folder / _HEAD).publish(sealed_json({"segment": after.segment}))
                if after.segment - after.snapshot >= _SEGMENTS_BETWEEN_SNAPSHOTS:
                    self.write_snapshot(after)
                    self._known = after = replace(after, snapshot=after.segment)
                return after
        message = f"{self.folder}: others commit to it all the time; nothing was written. Run the same command again."
        raise StoreError(message)

    def write_snapshot(self, state: IndexState) -> None:
        """Keep a state as one file. It says nothing new, so who writes it, and how often, makes no difference."""
        header = {**_header(state.segment, state.seal, state.label_names), "snapshot": True}
        lines = [canonical_json(header).encode(), *state.lines.values()]
        (self.folder / _snapshot_name(state.segment)).publish(sealed_lines(lines))

    def modified(self) -> float:
        """Return when the index last changed, seconds since 1970."""
        return (self.folder / _HEAD).modified()

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield (file, what is wrong) of every file of the log that is not as it was written."""
        names = [name for name in self.folder.children() if _SEGMENT.fullmatch(name) or _SNAPSHOT.fullmatch(name)]
        for name, content in self.folder.read_children(names).items():
            try:
                read_sealed_lines(content, self.folder / name, "")
            except DamagedStore as error:
                remedy = (
                    "Remove it: the segments say the same."
                    if _SNAPSHOT.fullmatch(name) and self._is_whole_without(name)
                    else _REMEDY
                )
                yield name, f"{error} {remedy}"

    def _is_whole_without(self, snapshot: str) -> bool:
        """Whether the segments that a snapshot stands for are all there."""
        return {_segment_name(number) for number in range(1, int(snapshot[:8]) + 1)} <= set(self.folder.children())

    def covered(self) -> list[Place]:
        """Return the segments and snapshots that the newest snapshot makes superfluous."""
        names = self.folder.children()
        newest = max((int(found[1]) for name in names if (found := _SNAPSHOT.fullmatch(name))), default=0)
        old = [
            name
            for name in names
            if ((found := _SEGMENT.fullmatch(name)) and int(found[1]) <= newest)
            or ((found := _SNAPSHOT.fullmatch(name)) and int(found[1]) < newest)
        ]
        return [self.folder / name for name in old]

    def _with(self, before: IndexState, name: str, data: bytes) -> IndexState:
        """Return the state that a segment or a snapshot makes of another."""
        place = self.folder / name
        (first, *lines), seal = read_sealed_lines(data, place, _REMEDY)
        header = parse_json(first, place)
        _check_header(place, header)
        snapshot = bool(header.get("snapshot"))
        expected = (
            {"snapshot": True, "segment": int(name[:8])}
            if snapshot
            else {"segment": int(name[:8]), "previous": before.seal}
        )
        told = {field_name: header.get(field_name) for field_name in expected}
        if told != expected or (not snapshot and header["segment"] != before.segment + 1):
            message = (
                f"{place}: it follows segment {header.get('segment', 1) - 1} of seal {header.get('previous')}, and the "
                f"one there is {before.segment} of seal {before.seal}. {_REMEDY}"
            )
            raise DamagedStore(message)
        kept = {} if snapshot else dict(before.lines)
        for line in lines:
            end = line.find(b'",', 2)
            if not line.startswith(b'["') or end < 0:
                message = f"{place}: the line {line[:40]!r} is not that of a volume. {_REMEDY}"
                raise DamagedStore(message)
            volume_id = line[2:end].decode()
            if line.endswith(b",null]"):
                kept.pop(volume_id, None)
            else:
                kept[volume_id] = line
        names = header["label_names"]
        try:
            # By number: JSON keeps them in the order of their text, 10 before 2.
            by_value = None if names is None else {int(value): text for value, text in names.items()}
            label_names = None if by_value is None else dict(sorted(by_value.items()))
        except (AttributeError, ValueError) as error:
            message = f"{place}: label_names is {names!r}, not names by value. {_REMEDY}"
            raise DamagedStore(message) from error
        return IndexState(
            lines=kept,
            label_names=label_names,
            segment=header["segment"],
            seal=header["previous"] if snapshot else seal,
            snapshot=header["segment"] if snapshot else before.snapshot,
        )


def _segment(before: IndexState, change: IndexChange) -> bytes:
    names = before.label_names if change.label_names is None else change.label_names
    header = canonical_json(_header(before.segment + 1, before.seal, names))
    removed = [index_line(volume_id, None) for volume_id in sorted(change.removed)]
    added = [index_line(volume_id, record) for volume_id, record in sorted(change.records.items())]
    return sealed_lines((header.encode(), *removed, *added))


def index_line(volume_id: str, record: Mapping[str, Any] | None) -> bytes:
    """Return the line of a volume, or the one that says that it was removed."""
    return canonical_json([volume_id, record]).encode()


def _header(segment: int, previous: str | None, label_names: Mapping[int, str] | None) -> dict[str, Any]:
    names = None if label_names is None else {str(value): name for value, name in sorted(label_names.items())}
    return {"format": FORMAT_VERSION, "segment": segment, "previous": previous, "label_names": names}


def _check_header(place: Place, header: object) -> None:
    refuse_later_format(place, header.get("format") if isinstance(header, dict) else None)
    if not isinstance(header, dict) or not {"format", "segment", "previous", "label_names"} <= set(header):
        message = f"{place}: its first line is not the header of a segment. {_REMEDY}"
        raise DamagedStore(message)


def _segment_name(number: int) -> str:
    return f"{number:08d}.jsonl"


def _snapshot_name(number: int) -> str:
    return f"{number:08d}.snapshot.jsonl"
