"""Which labels a dataset has, and the label map of one volume on the grid of its image."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...store.errors import InputError, SamkitError, UsageError
from ...store.places import DEFAULT_WORKSPACE, Place
from ...store.slices import Volume, VolumeRecord
from ...store.workspace import Workspace
from ..readers.base import LabelMap, SourceFiles, SourceGrid, read_label
from ..readers.geometry import Orientation, fit_label
from ..readers.labels import MOST_CLASSES, LabelChoice, chosen_labels, count_values, names_taken, unmatched
from ..readers.nifti import grid_of_series
from .job import IngestJob, IngestOptions


def values_in_label(source: SourceFiles, threshold: float | None = None) -> frozenset[int]:
    """Return the values that occur in the label of a source, 0 left out; none where it is refused later."""
    label = source.label
    if label is None or label.names or label.holds_structures:
        return frozenset()
    grid = None if source.series is None else grid_of_series(source.series)
    if grid is None and label.reader == "picture-stack":  # slice by slice, and of which slices nobody says
        return frozenset()
    try:
        read = read_label(source, grid=grid, threshold=threshold)
    except SamkitError:
        return frozenset()
    own = set(count_values(read.values)) if isinstance(read, LabelMap) else set()
    # More are an image, or instance numbers.
    return frozenset(own - {0}) if len(own) <= MOST_CLASSES + 1 else frozenset()


ReadLabelValues: TypeAlias = Callable[[Sequence[SourceFiles], float | None], Iterable[frozenset[int]]]
"""Gives what `values_in_label` finds of each source, for a threshold of soft labels."""


def read_label_values(sources: Sequence[SourceFiles], threshold: float | None) -> Iterator[frozenset[int]]:
    """Look into labels one after the other, in this process; a `ReadLabelValues`."""
    return (values_in_label(source, threshold) for source in sources)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetLabels:
    """What a dataset says of its labels."""

    #: The layout's own choice, or names; None where nothing says.
    choice: LabelChoice | None
    sources: Sequence[SourceFiles]
    #: Who looks into labels of which nothing says the values.
    read_values: ReadLabelValues = read_label_values

    @property
    def structures(self) -> list[str]:
        """The names of all structures, where all labels hold named ones; else none."""
        labels = [source.label for source in self.sources if source.label is not None]
        if not all(label.names or label.holds_structures for label in labels):
            return []
        return sorted({name for label in labels for name in label.names})

    @property
    def without_images(self) -> bool:
        """Whether these are labels for volumes that are in the workspace."""
        return not any(source.image for source in self.sources)


def decide_labels(there: Workspace | None, found: DatasetLabels, options: IngestOptions, place: Place) -> LabelChoice:
    """Return which labels are taken and what they are called.

    From ``--labels``, else as the workspace's volumes were ingested, else from the dataset, else the numbers that occur
    in the labels.

    Raises
    ------
    InputError
        When they are not the names that the workspace has already; the message has the command for one of its own.
    UsageError
        When an entry of ``--labels`` fits nothing in the whole dataset.
    """
    volumes = [] if there is None else list(there.volumes.values())
    kept = there.label_names if there is not None and volumes else {}
    given = options.labels if options.labels is not None else found.choice
    earlier = _earlier_choice(volumes)
    if options.labels is None and _go_by_name(found.structures, kept, earlier):
        choice = LabelChoice.of_names(kept)
    elif given is None and not kept:
        choice = LabelChoice.of_names({value: str(value) for value in _values_in_labels(found, options)})
    elif given is None or (
        options.labels is None and earlier is not None and earlier.names == kept and earlier.selects
    ):
        choice = earlier if earlier is not None and earlier.names == kept else LabelChoice.of_names(kept)
        # Names that are numbers say nothing, so the values have to: another dataset has others.
        unnamed = all(name == str(value) for value, name in kept.items())
        all_new = not {volume.record.identity for volume in volumes} & {source.identity for source in found.sources}
        values = set(_values_in_labels(found, options)) if unnamed and all_new else set()
        if values and values < set(kept):
            raise InputError(
                _other_labels(place, kept, {value: str(value) for value in sorted(values)}, found, options)
            )
    else:
        choice = given
        # The whole dataset again may give its numbers names, or add values, until a run was trained on what they were.
        again = {volume.record.identity for volume in volumes} <= {source.identity for source in found.sources}
        names = choice.names
        # A value of a label that was refused is no class of any volume.
        occurring = {value for volume in volumes for value in volume.record.label_values}
        grown = all(
            value in names and name in (names[value], str(value)) for value, name in kept.items() if value in occurring
        )
        untouched = there is None or len(there.runs) == 0
        # More classes beside those there are: what was taken before has none of them, or it would have been refused.
        selects = choice.selects or (earlier is not None and earlier.selects)
        more = not selects and kept.items() <= names.items()
        if kept and names != kept and not (untouched and (more or (again and grown))):
            raise InputError(_other_labels(place, kept, names, found, options, earlier=earlier, classes_added=more))
    check_that_labels_occur(options.labels, found.sources)
    if len(choice.names) > MOST_CLASSES:
        message = f"{len(choice.names)} label values: samkit takes up to {MOST_CLASSES}. Are these instance numbers?"
        raise InputError(message)
    return choice


def _go_by_name(structures: Sequence[str], kept: Mapping[int, str], earlier: LabelChoice | None) -> bool:
    """Tell whether all structures are called as classes of the workspace are: some of them, in whatever order."""
    if not structures or len(names_taken(LabelChoice.of_names(kept), structures)) < len(structures):
        return False
    return earlier is None or not earlier.selects or not names_taken(earlier, structures)


def as_before(there: Workspace | None, options: IngestOptions) -> IngestOptions:
    """Return options with the label rules of the workspace's volumes, where labels are to be taken as those were."""
    recipe = None if there is None or options.labels is not None else _earlier_recipe(list(there.volumes.values()))
    if recipe is None:
        return options
    return _with_rules_of(recipe, options, resampled=False)


def resampled_before(there: Workspace | None) -> frozenset[str]:
    """Return the identities of the sources whose labels were brought to their images' lattices: they are so again."""
    volumes = [] if there is None else there.volumes.values()
    recipes = {volume.record.identity: volume.ingest_recipe["labels"] for volume in volumes}
    return frozenset(
        identity for identity, recipe in recipes.items() if recipe and recipe["resampled"] and not recipe["apart"]
    )


def as_its_own(job: IngestJob, there: VolumeRecord | None) -> IngestJob:
    """Return a job with the label rules that a volume of the workspace was taken by, where none were typed.

    Two batches may number one structure apart, each with a choice of its own.
    """
    recipe = None if there is None else there.ingest_recipe["labels"]
    if recipe is None or recipe["apart"] or job.typed.labels is not None:
        return job
    choice = LabelChoice.from_json(recipe["choice"])
    if choice.names != job.choice.names:
        return job
    options = _with_rules_of(recipe, job.typed, resampled=recipe["resampled"])
    return replace(job, choice=choice, overlap=options.overlap or job.overlap, options=options)


def _with_rules_of(recipe: Mapping[str, Any], typed: IngestOptions, *, resampled: bool) -> IngestOptions:
    """Return options with the label rules of a recipe where none were typed.

    That labels may be brought to another lattice was said of those that lay on one: it holds for them alone.
    """
    return replace(
        typed,
        overlap=typed.overlap or recipe["overlap"],
        label_threshold=recipe["threshold"] if typed.label_threshold is None else typed.label_threshold,
        resample_labels=typed.resample_labels or resampled,
    )


def _earlier_recipe(volumes: Sequence[Volume]) -> Mapping[str, Any] | None:
    """Return how the labels of the newest labelled volume of the workspace were taken.

    A correction by ``--labels-from`` speaks for itself alone, unless all labels came that way.
    """
    recipes = [recipe for volume in reversed(volumes) if (recipe := volume.ingest_recipe["labels"]) is not None]
    return next((recipe for recipe in recipes if not recipe["apart"]), recipes[0] if recipes else None)


def _earlier_choice(volumes: Sequence[Volume]) -> LabelChoice | None:
    recipe = _earlier_recipe(volumes)
    return None if recipe is None else LabelChoice.from_json(recipe["choice"])


def check_that_labels_occur(choice: LabelChoice | None, sources: Sequence[SourceFiles]) -> None:
    """Refuse patterns that fit no structure of the whole dataset, where all of its structures are known by name.

    Raises
    ------
    UsageError
        With the patterns, and what there is.
    """
    if choice is None:
        return
    structures = DatasetLabels(choice=None, sources=sources).structures
    if structures and (lost := unmatched(choice, structures)):
        message = (
            f"--labels: nothing in this dataset is called {', '.join(lost)}. The structures there are: "
            f"{', '.join(structures)}"
        )
        raise UsageError(message)


def _other_labels(
    place: Place,
    kept: Mapping[int, str],
    names: Mapping[int, str],
    found: DatasetLabels,
    options: IngestOptions,
    *,
    earlier: LabelChoice | None = None,
    classes_added: bool = False,
) -> str:
    # Names of values would take others than a choice that selects and renumbers.
    known = earlier if earlier is not None and earlier.names == kept else LabelChoice.of_names(kept)
    name_all = shlex.quote(str(known))
    other = _own_workspace(options.shown)
    if found.without_images:
        here = "" if str(place) == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(place))}"
        if found.structures and list(kept) == list(range(1, len(kept) + 1)):
            name_all = shlex.quote(",".join(f"{name}=STRUCTURE" for name in kept.values()))
        there = f" (structures there: {', '.join(found.structures)})" if found.structures else ""
        return (
            f"{options.shown}: these labels are taken as {_listed(names)}, and {place} has the classes "
            f"{_listed(kept)}, one set for all of its volumes. If they are the same classes, say so: samkit ingest "
            f"--labels-from {shlex.quote(options.shown)}{here} --labels {name_all}{there}. If they are others, the "
            f"images need a workspace of their own for them: samkit ingest IMAGES --workspace {other}, then samkit "
            f"ingest --labels-from {shlex.quote(options.shown)} --workspace {other}"
        )
    if classes_added:
        return (
            f"{place} has the classes {_listed(kept)}, and runs that were trained on them; these labels have "
            f"{_listed(names)}. Classes may be added where there is no run: samkit remove --run RUN for each, or give "
            f"these a workspace of their own: samkit ingest {shlex.quote(options.shown)} --workspace {other}"
        )
    return (
        f"{place} holds a dataset with the labels {_listed(kept)}; this one has {_listed(names)}. A workspace "
        f"holds one dataset with one set of label names. Give this one its own: "
        f"samkit ingest {shlex.quote(options.shown)} --workspace {other} "
        f"(or, if it is more of the same dataset, say so: --labels {name_all})"
    )


def _values_in_labels(found: DatasetLabels, options: IngestOptions) -> list[int]:
    """Return the label values that occur in a dataset without names."""
    labelled = [source for source in found.sources if source.label is not None]
    return sorted(frozenset().union(*found.read_values(labelled, options.label_threshold)))


def fitting_label(
    job: IngestJob, source: SourceFiles, grid: SourceGrid, orientation: Orientation
) -> tuple[NDArray[np.unsignedinteger[Any]] | None, tuple[int, ...], list[str]]:
    """Read the label map of a source.

    Parameters
    ----------
    job
        Which labels are wanted.
    source
        With its label files, or None.
    grid, orientation
        Of its image.

    Returns
    -------
    ndarray
        (slices, rows, columns) in display orientation; None where there is none, or it is spared.
    tuple of int
        The values that occur, background left out.
    list of str
        What to tell of it.

    Raises
    ------
    InputError
        It cannot be read, or does not lie on the image.
    """
    options = job.options
    if source.label is None and options.require_labels:
        message = (
            f"{source.shown}: no label belongs to this image, and --require-labels asks for one. "
            f"Add the label, or leave the flag out to take the image as unlabelled."
        )
        raise InputError(message)
    # Where classes are chosen, structures that none of them takes are not even read.
    known = () if source.label is None or not job.choice.selects else source.label.names
    wanted = names_taken(job.choice, known)
    try:
        annotation = read_label(
            source,
            grid=grid,
            names=wanted or None,
            threshold=options.label_threshold,
            resample=options.resample_labels,
        )
        if annotation is None:
            return None, (), []
        chosen = chosen_labels(
            annotation, job.choice, overlap=job.overlap, file_names=job.file_names, place=source.shown
        )
        fitted = fit_label(
            chosen.values,
            annotation.affine,
            grid.shape,
            grid.affine_array,
            resample=options.resample_labels,
            may_be_cut_out=annotation.may_be_cut_out,
            place=source.shown,
        )
    except InputError as error:
        if not options.spare_labels:
            raise
        return None, (), [f"its label is left out: {error}"]
    left_out = [*chosen.left_out, *(name for name in known if wanted and name not in wanted)]
    told = [f"not taken: {', '.join(left_out)}"] if left_out else []
    notes = [*told, *annotation.notes, *chosen.notes, *([fitted.warning] if fitted.warning else []), *fitted.notes]
    kind = np.min_scalar_type(max(job.choice.names, default=1))
    return np.ascontiguousarray(orientation.apply(fitted.values)).astype(kind, copy=False), chosen.present, notes


def label_files(source: SourceFiles, there: VolumeRecord | None) -> tuple[str, ...]:
    """Return the keyed hashes of where the label of a volume lies, and where earlier ones lay: they are still there."""
    earlier = () if there is None else there.label_files
    return tuple(dict.fromkeys([*earlier, *(() if source.label is None else source.label.hashes)]))


def label_recipe(job: IngestJob, *, apart: bool) -> dict[str, Any]:
    """Return how labels were taken, for the ingest recipe; ``apart``: by ``--labels-from``, not with their images."""
    return {
        "apart": apart,
        "choice": job.choice.to_json(),
        "overlap": job.overlap,
        "threshold": job.options.label_threshold,
        "resampled": job.options.resample_labels,
    }


def _own_workspace(shown: str) -> str:
    """Return a name for a workspace that holds one source alone."""
    return shlex.quote(f"{Path(shown).resolve().name.split('.')[0] or 'other'}-workspace")


def _listed(names: Mapping[int, str]) -> str:
    return ", ".join(f"{value}={name}" for value, name in names.items()) or "none"
