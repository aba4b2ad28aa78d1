"""ingest: raw files -> slices. Read, orient, normalise, compare with what is there, keep, and say what was refused."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ..store.errors import InputError, UsageError
from ..store.places import Place, place_of
from ..store.slices import Pixels, Volume, VolumeRecord, write_packs
from ..store.splits import Split
from ..store.workspace import Workspace, check_identifier, open_workspace
from .intake.job import IngestJob, IngestOptions, IngestTask, Read, Refused, Taken
from .intake.labels import DatasetLabels, ReadLabelValues, as_before, decide_labels, read_label_values
from .intake.volume import as_source, read_source, relabel_volume, workspace_at
from .readers.base import SourceFiles
from .readers.layouts import Found, FoundLabels
from .training.ways import way_of

# Every commit is a file of the index, and of the packs of one-slice volumes; every two seconds keeps a kill cheap.
_SECONDS_BETWEEN_COMMITS = 2.0
# One-slice volumes wait in memory for their pack, up to about so many bytes.
_BYTES_BETWEEN_COMMITS = 256 << 20

ReadSources: TypeAlias = Callable[[IngestJob, Sequence[IngestTask]], Iterable[Read | Refused]]
"""Reads sources and gives the results in their order: `read_sources`, or the same by several processes."""


def read_sources(job: IngestJob, tasks: Sequence[IngestTask]) -> Iterator[Read | Refused]:
    """Read sources one after the other, in this process."""
    return (read_source(job, task) for task in tasks)


def ingest(
    workspace: str | Path | Place,
    found: Found,
    options: IngestOptions,
    *,
    read: ReadSources = read_sources,
    read_values: ReadLabelValues = read_label_values,
) -> Iterator[Taken | Refused]:
    """Bring the sources into the workspace, yielding what became of each.

    The workspace is made with its first volume. A volume counts when the index lists it, which is written
    after its pixels; a kill loses at most the volumes of the last two seconds, and the same command takes them again.

    Parameters
    ----------
    workspace
        A directory or an fsspec URL; it may not exist yet.
    found
        What a layout found, see `readers.layouts`.
    options
        The user's choices.
    read
        Where sources are read: in this process, one after the other, by default.
    read_values
        Who looks, before that, into the labels of a dataset that says nothing of their values; likewise.

    Raises
    ------
    InputError
        When the dataset's label names are not those of the workspace.
    UsageError
        When the options fit no file.
    """
    for shown, reason in found.refused:
        yield Refused(shown=shown, reason=reason)
    place = place_of(workspace)
    there = open_workspace(place) if Workspace.is_at(place) else None
    if there is None:
        Workspace.check_place(place)
    typed, options = options, as_before(there, options)
    known = _Known({} if there is None else dict(there.volumes), {source.id for source in found.sources})
    labels = DatasetLabels(choice=found.labels, sources=found.sources, read_values=read_values)
    choice = decide_labels(there, labels, options, place)
    job = IngestJob(
        place=place,
        options=options,
        typed=typed,
        choice=choice,
        overlap=options.overlap or found.overlap or "refuse",
        file_names=found.label_names or {},
    )
    keeper = _Keeper(place, there, choice.names, {} if there is None else there.label_names)
    tasks = []
    for source in found.sources:
        if (refused := known.refusal(source)) is not None:
            yield refused
        else:
            volume = known.by_id.get(source.id)
            tasks.append(IngestTask(source=source, there=None if volume is None else volume.record))
    try:
        for result in read(job, tasks):
            if isinstance(result, Refused):
                yield result
                continue
            taken = result.taken
            if result.record is not None:
                twin = known.by_slices.get(result.record.slice_digests)
                if twin is not None and twin.id != result.record.id:
                    twins = (
                        f"the same slices as {twin.id}: one scan that is there twice; `samkit remove` takes one away"
                        if twin.subject == result.record.subject
                        else f"the same slices as {twin.id} of another subject: if it is one patient, train and test "
                        f"overlap"
                    )
                    taken = replace(taken, twin=twins)
                if taken.change in ("new", "new pixels") and (unlike := known.shown_otherwise(result.record)):
                    taken = replace(taken, notes=(*taken.notes, unlike))
                known.add(Volume(place, keeper.keep(result.record, result.pixels), choice.names))
            yield taken
    finally:
        keeper.commit()
    if keeper.workspace is not None:
        keeper.name_labels()
        _keep_splits(keeper.workspace, found)


def relabel(workspace: Workspace, found: FoundLabels, options: IngestOptions) -> Iterator[Taken | Refused]:
    """Add labels to volumes of the workspace, or replace them, yielding what became of each.

    Slices and embeddings stay as they are; runs that used another label become stale, as `samkit status` says.

    Parameters
    ----------
    workspace
        With the volumes.
    found
        Label files, and the volumes that they belong to.
    options
        Only those that are about labels.

    Raises
    ------
    InputError
        When the labels have other names than those of the workspace.
    """
    for shown, reason in found.refused:
        yield Refused(shown=shown, reason=reason)
    typed, options = options, as_before(workspace, options)
    records = {volume_id: workspace.volumes[volume_id].record for volume_id, _, _ in found.pairs}
    sources = [as_source(records[volume_id], label, shown) for volume_id, label, shown in found.pairs]
    choice = decide_labels(workspace, DatasetLabels(choice=found.labels, sources=sources), options, workspace.path)
    job = IngestJob(
        place=workspace.path,
        options=options,
        typed=typed,
        choice=choice,
        overlap=options.overlap or found.overlap or "refuse",
        file_names=found.label_names or {},
    )
    keeper = _Keeper(workspace.path, workspace, choice.names, workspace.label_names)
    try:
        for source in sources:
            result = relabel_volume(job, records[source.id], source)
            if isinstance(result, Refused):
                yield result
                continue
            if result.record is not None:
                keeper.keep(result.record, result.pixels)
            yield result.taken
    finally:
        keeper.commit()
    keeper.name_labels()


def _keep_splits(workspace: Workspace, found: Found) -> None:
    """Keep the named splits of a dataset's authors.

    A split is made once; but one that was made from a part of the dataset, and that no run has used, is made again when
    more of its test subjects come: else they would join the pool.

    Raises
    ------
    InputError
        A run has used it already.
    """
    subjects = {volume.subject for volume in workspace.volumes.values() if volume.labelled}
    for name, authors_test in found.splits.items():
        standing = workspace.split(name)
        test = subjects & {*authors_test, *(standing.test if standing else ())}
        late = sorted(test - set(standing.test)) if standing else []
        if late and any(run.settings.split == name for run in workspace.runs.values()):
            message = (
                f"the split {name!r} was made, and runs were trained with it, before its test subject(s) "
                f"{', '.join(late)} were here; they would be drawn for training. Ingest the whole dataset into a "
                f"workspace of its own, or remove these: samkit remove VOLUME"
            )
            raise InputError(message)
        if late:
            workspace.remove_split(name)
        if test and subjects - test and (late or standing is None):
            pool, tested = tuple(sorted(subjects - test)), tuple(sorted(test))
            workspace.keep_split(Split(name=name, seed=0, pool=pool, test=tested))


class _Keeper:
    """Puts volumes into the index, and the pixels of one-slice volumes into packs before that.

    Parameters
    ----------
    place, workspace
        Where; None until there is one.
    names
        Of the labels.
    names_before
        Those of the workspace when `names` were decided: another ingest may give others meanwhile.
    """

    def __init__(
        self, place: Place, workspace: Workspace | None, names: Mapping[int, str], names_before: Mapping[int, str]
    ) -> None:
        self._place = place
        self.workspace = workspace
        self._names, self._names_before = names, names_before
        self._written: list[VolumeRecord] = []
        self._waiting: dict[str, tuple[VolumeRecord, Pixels]] = {}
        self._waiting_bytes = 0
        self._committed = time.monotonic()

    def keep(self, record: VolumeRecord, pixels: Pixels | None) -> VolumeRecord:
        """Take a volume over, and commit where it is time; ``pixels`` only for one that waits for its pack."""
        if self.workspace is None:
            self.workspace = workspace_at(self._place, self._names)
        if pixels is None:
            self._written.append(record)
        else:
            self._waiting[record.id] = (record, pixels)
            self._waiting_bytes += pixels.nbytes
        late = time.monotonic() - self._committed > _SECONDS_BETWEEN_COMMITS
        if late or self._waiting_bytes > _BYTES_BETWEEN_COMMITS:
            self.commit()
        return record

    def commit(self) -> None:
        """Put what was kept since the last time into the index."""
        packed = write_packs(self._place, {volume_id: pixels for volume_id, (_, pixels) in self._waiting.items()})
        for volume_id, (record, _) in self._waiting.items():
            lies = packed[volume_id]
            self._written.append(replace(record, pixels=lies.pixels, files=lies.files, plane=lies.plane))
        if self._written and self.workspace is not None:
            self.name_labels()
            self.workspace.commit_volumes(self._written)
        self._written, self._waiting, self._waiting_bytes = [], {}, 0
        self._committed = time.monotonic()

    def name_labels(self) -> None:
        """Give the workspace the names of its labels, where it has others.

        Raises
        ------
        StoreError
            Another command has named them otherwise meanwhile.
        """
        if self.workspace is not None and self._names and self.workspace.label_names != self._names:
            self.workspace.set_label_names(self._names, instead_of=self._names_before)


class _Known:
    """The volumes of the workspace, and those taken so far, by what tells that a source is one of them.

    Parameters
    ----------
    volumes
        Of the workspace.
    coming
        Ids of the sources, which may be ingested in another way now.
    """

    def __init__(self, volumes: Mapping[str, Volume], coming: Collection[str]) -> None:
        #: By modality and by what is decided of a recipe, what was.
        self._ways: defaultdict[str | None, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for volume in volumes.values():
            if volume.id not in coming:
                for name, value in way_of(volume.ingest_recipe).items():
                    self._ways[volume.record.modality][name].add(value)
        self.by_id: dict[str, Volume] = {}
        self.by_identity: dict[str, Volume] = {}
        self.by_slices: dict[tuple[str, ...], Volume] = {}
        for volume in volumes.values():
            self.add(volume)

    def add(self, volume: Volume) -> None:
        """Add or replace a volume."""
        self.by_id[volume.id] = volume
        self.by_identity[volume.record.identity] = volume
        self.by_slices.setdefault(volume.slice_digests, volume)

    def shown_otherwise(self, record: VolumeRecord) -> str | None:
        """Say that all volumes of a modality that were here before are shown otherwise: in other windows or planes."""
        told = {
            name: f"its {name} is {value}, and that of the other volumes of its modality here "
            f"{' or '.join(sorted(others))}"
            for name, value in way_of(record.ingest_recipe).items()
            if (others := self._ways[record.modality][name]) and value not in others
        }
        if "window" in told:
            told.pop("intensity", None)  # which follows from it
        if not told:
            return None
        return f"{'; '.join(told.values())}: a head would see both. Ingest these alike, or into another --workspace"

    def refusal(self, source: SourceFiles) -> Refused | None:
        """Refuse a source that is in the workspace under another id, or whose id cannot be one."""
        try:
            check_identifier("volume id", source.id)
        except UsageError as error:
            reason = f"{source.shown}: {error} Rename the file, or let samkit make the ids: --ids hash"
            return Refused(shown=source.shown, reason=reason)
        elsewhere = self.by_identity.get(source.identity)
        if source.id not in self.by_id and elsewhere is not None:
            reason = (
                f"{source.shown}: this source is in the workspace already, as {elsewhere.id}. Under a second id the "
                f"same patient could be trained on and scored. Ingest it as before (--ids, the same folder), or leave "
                f"it."
            )
            return Refused(shown=source.shown, reason=reason)
        return None
