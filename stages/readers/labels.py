"""Which voxels of an annotation belong to which class: ``--labels``, overlaps, soft and whole values. Pure functions.

An annotation is a map of numbers (`LabelMap`) or a set of named masks that may overlap (`Structures`). A choice makes
one map of classes of it, in one of two forms:

    1=RV,2=Myo,3=LV                      names the values as they are in the files; a value without a name is refused
    liver=liver,tumour=livertumor*       selects, merges and renames; classes are numbered 1, 2, ... as written

In the second form what no entry takes is background, and is reported as left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ...store.errors import GeometryMismatch, UnusableLabel, UsageError
from .base import LabelMap, Structures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "MOST_CLASSES",
    "ChosenLabels",
    "LabelChoice",
    "LabelClass",
    "Overlap",
    "check_mask",
    "check_threshold",
    "chosen_labels",
    "count_values",
    "names_taken",
    "parse_labels",
    "unmatched",
    "whole_labels",
    "whole_planes",
]

Overlap = Literal["refuse", "first", "last"]
"""Whose a voxel is that belongs to several classes: nobody's, the first one's of the choice, or the last one's.

``last`` makes ``liver=liver|livertumor*,tumour=livertumor*`` right, where the liver contains its tumours.
"""

# A label stored with scl_slope comes back as 2.00007 or 6.9999 (TorchIO#220, nibabel#1001): round, and check.
WHOLE_TOLERANCE = 1e-3

MOST_CLASSES = 254
"""Class indices are bytes, and 255 marks what lies outside a slice."""

_LARGEST_VALUE = 2**32 - 1
_COUNTED_BY_TABLE = (np.dtype(np.uint8), np.dtype(np.uint16))
_LARGEST_TABLE = 2**16  # above, a table by value would be larger than a search in the values that occur is slow

_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")
_EXAMPLES = "--labels 1=RV,2=Myo,3=LV names values; --labels liver=liver,tumour=livertumor*|tumor selects structures"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelClass:
    """One class of a choice."""

    value: int
    """Its number in the map that comes out; from 1 on."""
    name: str
    takes: tuple[str, ...] = ()
    """Patterns of what belongs to it; empty where the choice only names values."""
    leaves: tuple[str, ...] = ()
    """Patterns of what does not, whatever `takes` says."""

    def __str__(self) -> str:
        if not self.takes:
            return f"{self.value}={self.name}"
        return f"{self.name}={'|'.join([*self.takes, *(f'!{pattern}' for pattern in self.leaves)])}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelChoice:
    """Which classes there are, and what belongs to each. Compares by value.

    ``str`` gives what `parse_labels` reads, unless a dataset's own name has a comma, ``=`` or ``*`` in it; `to_json`
    keeps any.
    """

    classes: tuple[LabelClass, ...]
    """In the order of their numbers."""

    @property
    def names(self) -> dict[int, str]:
        """Class names by number, background left out."""
        return {class_.value: class_.name for class_ in self.classes}

    @property
    def selects(self) -> bool:
        """Whether values are chosen and renumbered (else they are named as they are)."""
        return any(class_.takes for class_ in self.classes)

    @classmethod
    def of_names(cls, names: Mapping[int, str]) -> Self:
        """Return the choice that names values as they are in the files; 0 is background and left out.

        For named structures, each belongs to the class of its own name (upper and lower case alike).
        """
        return cls(classes=tuple(LabelClass(value=value, name=names[value]) for value in sorted(names) if value != 0))

    @classmethod
    def of_structures(cls, structures: Iterable[str]) -> Self:
        """Return one class a structure, numbered from 1 on: rib_2 before rib_10, upper and lower case alike.

        Parameters
        ----------
        structures
            The names of all structures of the dataset; one that occurs twice counts once.
        """
        spelled = {_folded(name): name for name in sorted(set(structures), reverse=True)}
        ordered = [spelled[folded] for folded in sorted(spelled, key=_natural)]
        return cls.of_names(dict(enumerate(ordered, start=1)))

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain lists, numbers and text."""
        return [
            {"value": class_.value, "name": class_.name, "takes": list(class_.takes), "leaves": list(class_.leaves)}
            for class_ in self.classes
        ]

    @classmethod
    def from_json(cls, stored: Iterable[Mapping[str, Any]]) -> Self:
        """Return the choice that `to_json` described."""
        return cls(
            classes=tuple(
                LabelClass(
                    value=class_["value"],
                    name=class_["name"],
                    takes=tuple(class_["takes"]),
                    leaves=tuple(class_["leaves"]),
                )
                for class_ in stored
            )
        )

    def __str__(self) -> str:
        return ",".join(map(str, self.classes))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChosenLabels:
    """The map of classes of one volume."""

    values: npt.NDArray[np.unsignedinteger[Any]]
    """(i, j, k), on the lattice of the annotation, in the smallest unsigned type that holds every class of the choice;
    0 is background."""
    present: tuple[int, ...]
    """The numbers of the classes that occur, ascending."""
    left_out: tuple[str, ...] = ()
    """What no class takes: the names of structures, or values (by name where they have one) that occur."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each. The annotation's own notes are not repeated."""


def parse_labels(text: str) -> LabelChoice:
    """Read ``--labels``.

    Entries are separated by commas, and all of one form.

    ``VALUE=NAME``
        Names the values as they are in the files.
    ``NAME=PATTERN|PATTERN|!PATTERN``
        Selects, merges and renames. A pattern is a whole number or a range of label values (``3``, ``3-7``), or a name
        of a structure or value, where ``*`` stands for any text and ``?`` for any character (also for a comma, ``=``,
        ``|`` or bracket within a name); upper and lower case are alike. ``!`` excludes, wherever it stands.

    Raises
    ------
    UsageError
        Anything else: an entry of neither form, both forms, a value or name that occurs twice.

    Examples
    --------
    >>> parse_labels("liver=liver,tumour=livertumor*|!livertumor07").names
    {1: 'liver', 2: 'tumour'}
    """
    entries = [tuple(part.strip() for part in entry.partition("=")[::2]) for entry in text.split(",")]
    for entry, (left, right) in zip(text.split(","), entries, strict=True):
        if not left or not right:
            message = f"--labels {text!r}: {entry!r} is neither VALUE=NAME nor NAME=PATTERN. For example: {_EXAMPLES}"
            raise UsageError(message)
    numbered = [left.isdecimal() for left, _ in entries]
    if any(numbered) and not all(numbered):
        one, other = (entries[numbered.index(form)] for form in (True, False))
        message = (
            f"--labels {text!r}: {'='.join(one)!r} names a value, {'='.join(other)!r} selects. All entries have to be "
            f"of one form: {_EXAMPLES} (a number may stand on the right: --labels liver=1,tumour=2|3)"
        )
        raise UsageError(message)
    return _naming(text, entries) if all(numbered) else _selecting(text, entries)


def _naming(text: str, entries: Sequence[tuple[str, ...]]) -> LabelChoice:
    names: dict[int, str] = {}
    for left, name in entries:
        if int(left) in names or name in names.values():
            message = f"--labels {text!r}: '{left}={name}' repeats a value or a name."
            raise UsageError(message)
        if "*" in name or "|" in name or name.startswith("!"):
            message = (
                f"--labels {text!r}: '{left}={name}' has a pattern where VALUE=NAME has a name. To select by "
                f"pattern, put the name of the class on the left; classes are numbered in the order written: "
                f"--labels NAME={name}"
            )
            raise UsageError(message)
        names[int(left)] = name
    return LabelChoice.of_names(names)


def _selecting(text: str, entries: Sequence[tuple[str, ...]]) -> LabelChoice:
    classes: list[LabelClass] = []
    for value, (name, patterns) in enumerate(entries, start=1):
        parts = [part.strip() for part in patterns.split("|")]
        takes = tuple(part for part in parts if not part.startswith("!"))
        leaves = tuple(part[1:].strip() for part in parts if part.startswith("!"))
        if not all(takes) or not all(leaves):
            message = f"--labels {text!r}: '{name}={patterns}' has an empty pattern. For example: {_EXAMPLES}"
            raise UsageError(message)
        if not takes:
            message = (
                f"--labels {text!r}: '{name}={patterns}' only excludes. Say what it takes first; for all but these: "
                f"{name}=*|{patterns}"
            )
            raise UsageError(message)
        for pattern in (*takes, *leaves):
            _check_range(text, pattern)
        if any(_folded(name) == _folded(other.name) for other in classes):
            message = (
                f"--labels {text!r}: the class {name!r} is written twice. Give it one entry, its patterns separated "
                f"by |: {name}=PATTERN|PATTERN"
            )
            raise UsageError(message)
        classes.append(LabelClass(value=value, name=name, takes=takes, leaves=leaves))
    return LabelChoice(classes=tuple(classes))


def _check_range(text: str, pattern: str) -> None:
    numbers = _NUMBERS.fullmatch(pattern)
    if numbers is None:
        return
    lowest, highest = int(numbers[1]), int(numbers[2] or numbers[1])
    if lowest == 0 or highest < lowest:
        message = (
            f"--labels {text!r}: {pattern!r} is no range of label values. They run from 1 on (0 is background), the "
            f"smaller number first, such as 3-7."
        )
        raise UsageError(message)


def unmatched(choice: LabelChoice, names: Iterable[str], values: Iterable[int] = ()) -> tuple[str, ...]:
    """Return the patterns of a choice that take nothing, as ``class=pattern``: most likely a slip of the pen.

    Parameters
    ----------
    choice
        Only one that selects can have any. Patterns that exclude are left in peace: they may be a precaution.
    names
        Of all structures and named values of the whole dataset; in one volume a pattern may well find nothing.
    values
        All label values of the whole dataset, where it holds maps of numbers.
    """
    named, numbers = list(names), [value for value in values if value != 0]
    return tuple(
        f"{class_.name}={pattern}"
        for class_ in choice.classes
        for pattern in class_.takes
        if not any(_matches(pattern, name, None) for name in named)
        and not any(_matches(pattern, str(value), value) for value in numbers)
    )


def names_taken(choice: LabelChoice, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the named structures that some class takes: the others need not be read."""
    return tuple(name for name in names if any(_owns(choice, class_, name) for class_ in choice.classes))


def chosen_labels(
    annotation: LabelMap | Structures,
    choice: LabelChoice,
    *,
    overlap: Overlap = "refuse",
    file_names: Mapping[int, str] | None = None,
    place: str,
) -> ChosenLabels:
    """Make one map of classes of an annotation.

    Parameters
    ----------
    annotation
        As a reader gave it. The masks of `Structures` are asked for one after another, those of one class together;
        those that no class takes are not touched.
    choice
        One that selects takes what its patterns match. One that names takes values as they are; structures, and
        values that the annotation itself names, into the class of their own name.
    overlap
        What becomes of voxels in several classes.
    file_names
        What the dataset calls its values; the annotation's own names go first.
    place
        The source, for messages.

    Returns
    -------
    ChosenLabels
        On the lattice of the annotation. Without any class in it it is empty, and a note says so: patients without a
        tumour are no mistake.

    Raises
    ------
    UnusableLabel
        A value or structure without a name (where the choice names); classes that overlap (where the rule is to
        refuse); no structures, or of different shapes.
    """
    if isinstance(annotation, LabelMap):
        return _classes_of_map(annotation, choice, overlap, file_names or {}, place)
    return _classes_of_structures(annotation, choice, overlap, place)


@dataclass(slots=True)
class _Overlaps:
    """The voxels that belonged to two classes, counted by the pair in the order of the choice."""

    rule: Overlap
    place: str
    counted: Counter[tuple[LabelClass, LabelClass]] = field(default_factory=Counter)

    def refuse_if_told(self) -> None:
        if self.rule != "refuse" or not self.counted:
            return
        (first, second), count = self.counted.most_common(1)[0]
        message = (
            f"{self.place}: {first.name} and {second.name} overlap in {count} voxel(s), and a voxel has one class "
            f"here. Say whose they are: --overlap last gives them to {second.name} (right where the first contains "
            f"the second, as a liver its tumours), --overlap first to {first.name}; or leave one out of --labels."
        )
        raise UnusableLabel(message)

    def notes(self, touched: Iterable[LabelClass], present: Iterable[int]) -> list[str]:
        """Say who got what, and which class was swallowed whole (the order of the choice may be wrong)."""
        winner = -1 if self.rule == "last" else 0
        told = [
            f"{pair[0].name} and {pair[1].name} overlap in {count} voxel(s): taken as {pair[winner].name} "
            f"(--overlap {self.rule})"
            for pair, count in self.counted.items()
        ]
        kept = set(present)
        lost = [class_.name for class_ in touched if class_.value not in kept]
        return told + [
            f"nothing is left of {name}: all of it belongs to another class too (--overlap {self.rule}); is the order "
            f"of --labels as you mean it?"
            for name in lost
        ]


def _classes_of_map(
    annotation: LabelMap, choice: LabelChoice, overlap: Overlap, file_names: Mapping[int, str], place: str
) -> ChosenLabels:
    counts = {value: count for value, count in count_values(annotation.values).items() if value != 0}
    kind = _kind(choice)
    if not choice.selects:
        own = _classes_by_name(annotation, counts, choice, place)
        renumbered = any(value != number for value, number in own.items())
        values = _looked_up(annotation.values, {0: 0, **own}, kind) if renumbered else annotation.values
        numbers = tuple(sorted(set(own.values())))
        return ChosenLabels(
            values=values.astype(kind, copy=False), present=numbers, notes=_emptiness(present=numbers, left_out=())
        )
    overlaps = _Overlaps(overlap, place)
    class_of: dict[int, int] = {0: 0}
    touched: dict[int, LabelClass] = {}
    left_out: list[str] = []
    for value, count in counts.items():
        called = annotation.names.get(value) or file_names.get(value) or str(value)
        owners = [class_ for class_ in choice.classes if _takes(class_, called, value)]
        touched.update({owner.value: owner for owner in owners})
        if len(owners) > 1:
            overlaps.counted[owners[0], owners[-1]] += count
        if owners:
            class_of[value] = owners[-1 if overlap == "last" else 0].value
        else:
            class_of[value] = 0
            left_out.append(called)
    overlaps.refuse_if_told()
    present = tuple(sorted(set(class_of.values()) - {0}))
    return ChosenLabels(
        values=_looked_up(annotation.values, class_of, kind),
        present=present,
        left_out=tuple(left_out),
        notes=(*overlaps.notes(touched.values(), present), *_emptiness(present=present, left_out=left_out)),
    )


def _classes_by_name(annotation: LabelMap, occurring: Iterable[int], choice: LabelChoice, place: str) -> dict[int, int]:
    """Return the class of each value, for a choice that names values as they are.

    Where the file itself names its values, a name decides and not a number: two files may number one structure apart.
    """
    class_of_name = {_folded(name): value for value, name in choice.names.items()}
    classes: dict[int, int] = {}
    strange: list[str] = []
    for value in occurring:
        name = annotation.names.get(value)
        if name is None and not annotation.names and value in choice.names:
            classes[value] = value
        elif name is not None and _folded(name) in class_of_name:
            classes[value] = class_of_name[_folded(name)]
        elif name is not None:
            strange.append(name)
    if strange:
        raise UnusableLabel(_nameless_structures(place, strange, choice.names))
    if nameless := [value for value in occurring if value not in classes]:
        raise UnusableLabel(_nameless(place, nameless, choice.names))
    return classes


def _looked_up(
    values: npt.NDArray[np.unsignedinteger[Any]], class_of: Mapping[int, int], kind: np.dtype[Any]
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Replace every value by its class, plane by plane: an index array of a whole CT would be eight times as large."""
    occurring = np.array(sorted(class_of))
    classes = np.array([class_of[int(value)] for value in occurring], dtype=kind)
    result = np.empty(values.shape, dtype=kind, order="F")
    small = int(occurring[-1]) < _LARGEST_TABLE
    if small:
        table = np.zeros(int(occurring[-1]) + 1, dtype=kind)
        table[occurring] = classes
    else:
        table = classes
    for k in range(values.shape[-1]):
        plane = values[..., k].T  # readers give Fortran order, so this lies in memory as numpy goes through it
        result[..., k].T[...] = table[plane if small else np.searchsorted(occurring, plane)]
    return result


def _classes_of_structures(annotation: Structures, choice: LabelChoice, overlap: Overlap, place: str) -> ChosenLabels:
    names = tuple(annotation.masks)
    if not names:
        message = (
            f"{place}: the label holds no structures at all, so its grid is unknown too. Was it exported empty? Move "
            f"it elsewhere, and the image is taken without a label."
        )
        raise UnusableLabel(message)
    members = {class_: [name for name in names if _owns(choice, class_, name)] for class_ in choice.classes}
    taken = {name for named in members.values() for name in named}
    left_out = [name for name in names if name not in taken]
    if not choice.selects:
        nameless = [name for name in left_out if annotation.masks[name].any()]
        if nameless:
            raise UnusableLabel(_nameless_structures(place, nameless, choice.names))
    overlaps = _Overlaps(overlap, place)
    by_value = {class_.value: class_ for class_ in choice.classes}
    values: npt.NDArray[np.unsignedinteger[Any]] | None = None
    touched: list[LabelClass] = []
    for class_, named in members.items():
        if not named:
            continue
        mask = _union(annotation, named, place)
        if values is None:
            values = np.zeros(mask.shape, dtype=_kind(choice), order="F")
        _check_shape(place, named[0], mask.shape, values.shape)
        voxels, met = _merge(values, mask, class_.value, overlap)
        del mask  # or it would be held while the next class is read
        overlaps.counted.update({(by_value[other], class_): count for other, count in met.items()})
        overlaps.refuse_if_told()
        touched += [class_] if voxels else []
    if values is None:
        values = np.zeros(annotation.masks[names[0]].shape, dtype=_kind(choice), order="F")
    present = tuple(value for value in count_values(values) if value != 0)
    return ChosenLabels(
        values=values,
        present=present,
        left_out=tuple(left_out),
        notes=(*overlaps.notes(touched, present), *_emptiness(present=present, left_out=left_out)),
    )


def _union(annotation: Structures, named: Sequence[str], place: str) -> npt.NDArray[np.bool_]:
    """Return the mask of one class; a class of one structure has that one's, which is not copied."""
    first = annotation.masks[named[0]]
    if len(named) == 1:
        return first
    union = first.copy()
    for name in named[1:]:
        mask = annotation.masks[name]
        _check_shape(place, name, mask.shape, union.shape)
        union |= mask
    return union


def _merge(
    values: npt.NDArray[np.unsignedinteger[Any]], mask: npt.NDArray[np.bool_], value: int, overlap: Overlap
) -> tuple[int, Counter[int]]:
    """Write one class into the map, in place and plane by plane.

    Returns the class's voxels, and how many of them had which other class.
    """
    voxels, met = 0, Counter[int]()
    for k in range(values.shape[-1]):
        plane, here = values[..., k], mask[..., k]
        voxels += int(np.count_nonzero(here))
        before = plane[here]
        met.update(count_values(before[before != 0]))
        plane[here if overlap == "last" else here & (plane == 0)] = value
    return voxels, met


def _check_shape(place: str, name: str, shape: tuple[int, ...], others: tuple[int, ...]) -> None:
    if shape != others:
        message = (
            f"{place}: the structure {name!r} has shape {shape}, the others {others}. The masks of one image have to "
            f"lie on one grid: was one of them made on a cropped or resampled copy? Leave it out with --labels."
        )
        raise UnusableLabel(message)


def _owns(choice: LabelChoice, class_: LabelClass, structure: str) -> bool:
    return _takes(class_, structure, None) if choice.selects else _folded(structure) == _folded(class_.name)


def _takes(class_: LabelClass, name: str, value: int | None) -> bool:
    wanted = any(_matches(pattern, name, value) for pattern in class_.takes)
    return wanted and not any(_matches(pattern, name, value) for pattern in class_.leaves)


def _matches(pattern: str, name: str, value: int | None) -> bool:
    """Tell whether a pattern means this value (None: a structure, which only has a name)."""
    numbers = _NUMBERS.fullmatch(pattern)
    if numbers is not None and value is not None:
        return int(numbers[1]) <= value <= int(numbers[2] or numbers[1])
    return fnmatchcase(_folded(name), _folded(pattern))


def _folded(name: str) -> str:
    """Return what names are compared by: file names on macOS decompose umlauts, headers pad with blanks."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key by which numbers within names sort as numbers."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def _kind(choice: LabelChoice) -> np.dtype[Any]:
    return np.min_scalar_type(max(choice.names, default=1))


def _emptiness(*, present: Iterable[int], left_out: Iterable[str]) -> tuple[str, ...]:
    if any(present):
        return ()
    return ("none of the chosen classes is in its label",) if any(left_out) else ("the label map is empty",)


def _nameless(place: str, values: Sequence[int], names: Mapping[int, str]) -> str:
    if len(values) > MOST_CLASSES:
        return (
            f"{place}: the label has {len(values)} values that have no name here, and {MOST_CLASSES} classes are the "
            f"most there can be. Is it an image, or does it number instances?"
        )
    named = [f"{value}={name}" for value, name in names.items()] + [f"{value}=NAME" for value in values[:3]]
    return (
        f"{place}: the label has the value(s) {', '.join(map(str, values[:8]))}, which have no name here "
        f"({_listed(names)}). Name them, e.g. --labels {','.join(named)}, or, if this is another dataset, "
        f"ingest it into a workspace of its own: --workspace NAME"
    )


def _nameless_structures(place: str, structures: Sequence[str], names: Mapping[int, str]) -> str:
    chosen = next((name for name in names.values() if not name.isdecimal()), "NAME")  # 1=liver would name a value
    return (
        f"{place}: the label has the structure(s) {', '.join(structures[:8])}, which are no class here "
        f"({_listed(names)}). Say which structures make which class, e.g. --labels {chosen}={structures[0]}; what is "
        f"not named there is left out. If this is another dataset, ingest it into a workspace of its own: "
        f"--workspace NAME"
    )


def _listed(names: Mapping[int, str]) -> str:
    return ", ".join(f"{value}={name}" for value, name in names.items()) or "none"


# -- values ----------------------------------------------------------------------------------------


def count_values(values: npt.NDArray[np.integer[Any]]) -> dict[int, int]:
    """Return how often each value occurs, ascending; plane by plane along the last axis, so that no copy is sorted."""
    counted: Counter[int] = Counter()
    planes = [values[..., k] for k in range(values.shape[-1])] if values.ndim > 2 else [values]
    small = values.dtype in _COUNTED_BY_TABLE  # four times as fast as sorting
    for plane in planes:
        if small:
            every = np.bincount(plane.ravel(order="K"))
            found = np.flatnonzero(every)
            counts = every[found]
        else:
            found, counts = np.unique(plane, return_counts=True)
        counted.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    return dict(sorted(counted.items()))


def check_threshold(threshold: float | None) -> None:
    """Refuse what is no share above which a voxel belongs to a structure.

    Raises
    ------
    UsageError
        Anything else than 0.001 to 0.999: what lies nearer to 0 or 1 is taken for whole.
    """
    if threshold is not None and not WHOLE_TOLERANCE <= threshold <= 1 - WHOLE_TOLERANCE:
        message = (
            f"--label-threshold {threshold:g}: a voxel belongs to a structure above that share, so it lies between 0 "
            f"and 1: {WHOLE_TOLERANCE:g} (any share at all) to {1 - WHOLE_TOLERANCE:g}; 0.5 is the usual one."
        )
        raise UsageError(message)


def whole_labels(
    values: npt.NDArray[Any], *, place: str, threshold: float | None = None
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return label values as the smallest unsigned integers that hold them.

    Parameters
    ----------
    values
        Any shape, any real type; whole within 0.001 and not negative.
    place
        The file, for messages.
    threshold
        For soft labels (all values from 0 to 1): those above it become 1, the others 0. Labels that are whole already
        stay as they are.

    Raises
    ------
    UnusableLabel
        NaN or infinite, negative, or not whole; some of the values are shown.
    UsageError
        A threshold that `check_threshold` refuses.
    """
    if values.dtype == np.uint8:
        return values
    if values.ndim > 2:
        planes = (values[..., k] for k in range(values.shape[-1]))
        return whole_planes(planes, values.shape, place=place, threshold=threshold)
    return whole_planes([values], (*values.shape, 1), place=place, threshold=threshold)[..., 0]


def whole_planes(
    planes: Iterable[npt.NDArray[Any]], shape: tuple[int, ...], *, place: str, threshold: float | None = None
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Do what `whole_labels` does to planes that come one by one, so that no copy of the whole is ever made.

    Parameters
    ----------
    planes
        ``values[..., k]`` for every k in order, all of one real type.
    shape
        Of the whole; its last entry is the number of planes.
    place, threshold
        As for `whole_labels`, which says too what is raised.

    Returns
    -------
    ndarray
        Of that shape, in Fortran order.
    """
    check_threshold(threshold)
    labels: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(shape, dtype=np.uint8, order="F")
    seen = _Seen(size=labels.size)
    for k, plane in enumerate(planes):
        whole = seen.whole(plane, threshold)
        if whole is None:
            continue
        kind = np.min_scalar_type(int(whole.max(initial=0)))
        if kind.itemsize > labels.dtype.itemsize:
            labels = labels.astype(kind)
        labels[..., k] = whole
    seen.check(place, threshold)
    return labels


@dataclass(slots=True)
class _Seen:
    """What is wrong with label values, counted over all planes: a message says how many of how many."""

    size: int
    unfinite: int = 0
    fractional: int = 0
    fractions: list[float] = field(default_factory=list)
    negative: int = 0
    negatives: list[float] = field(default_factory=list)
    lowest: float = 0.0
    highest: float = 0.0

    def whole(self, plane: npt.NDArray[Any], threshold: float | None) -> npt.NDArray[Any] | None:
        """Return the plane as whole numbers from 0 on, or None where something is wrong."""
        if plane.size == 0 or plane.dtype == np.bool_:
            return plane
        broken = None
        if plane.dtype.kind == "f":
            unfinite = plane.size - int(np.count_nonzero(np.isfinite(plane)))
            if unfinite:
                self.unfinite += unfinite
                return None
            broken = np.abs(plane - np.rint(plane)) > WHOLE_TOLERANCE
        lowest, highest = plane.min().item(), plane.max().item()
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        if broken is not None and broken.any():
            self.fractional += int(np.count_nonzero(broken))
            self.fractions = sorted({*self.fractions, *np.unique(plane[broken])[:5].tolist()})[:5]
            return None if threshold is None else plane > threshold
        if lowest < -WHOLE_TOLERANCE:
            below = plane[plane < -WHOLE_TOLERANCE]
            self.negative += below.size
            self.negatives = sorted({*self.negatives, *np.unique(below)[:5].tolist()})[:5]
            return None
        if highest > _LARGEST_VALUE:
            return None
        return plane if broken is None else np.rint(plane)

    def check(self, place: str, threshold: float | None) -> None:
        if self.unfinite:
            message = (
                f"{place}: {self.unfinite} of {self.size} label values are NaN or infinite. The label was probably "
                f"written by a resampling tool that marks the outside so; write 0 there, e.g. numpy.nan_to_num(label)."
            )
            raise UnusableLabel(message)
        if self.fractional:
            self._check_soft(place, threshold)
        if self.negative:
            some = ", ".join(f"{value:g}" for value in self.negatives)
            message = (
                f"{place}: {self.negative} of {self.size} label values are negative ({some}). "
                f"Labels are whole numbers from 0 (background) on. If negative means 'not annotated', set it to 0."
            )
            raise UnusableLabel(message)
        if self.highest > _LARGEST_VALUE:
            message = (
                f"{place}: the label values reach {self.highest:.4g}; up to {_LARGEST_VALUE} are taken. Is this an "
                f"image, and not a label?"
            )
            raise UnusableLabel(message)

    def _check_soft(self, place: str, threshold: float | None) -> None:
        some = ", ".join(f"{value:.4g}" for value in self.fractions)
        soft = self.lowest >= -WHOLE_TOLERANCE and self.highest <= 1 + WHOLE_TOLERANCE
        if soft and threshold is not None:
            return
        found = f"{place}: {self.fractional} of {self.size} label values are not whole numbers ({some}, ...)"
        if soft:
            message = (
                f"{found}. It looks like a soft label (a probability): say from where on a voxel counts, "
                f"--label-threshold 0.5. If it was resampled with interpolation, resample it with nearest neighbour."
            )
        else:
            message = (
                f"{found} and run from {self.lowest:.4g} to {self.highest:.4g}: no soft label either, which "
                f"--label-threshold 0.5 would take (0 to 1). It was probably resampled with interpolation: resample "
                f"it with nearest neighbour."
            )
        raise UnusableLabel(message)


def check_mask(path: Path, values: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    """Refuse what is no mask of a source: the file that it was to become is named.

    Raises
    ------
    GeometryMismatch
        It has another shape than the source's grid, both in the source's index order.
    UnusableLabel
        It is not of an integer type.
    """
    if values.shape != shape:
        message = (
            f"{path}: the mask has shape {values.shape}, the grid of its source {shape}. "
            f"Was the display orientation undone?"
        )
        raise GeometryMismatch(message)
    if values.dtype.kind not in "ui":
        message = f"{path}: a mask holds integers, not {values.dtype}. Take the argmax, or threshold, before writing."
        raise UnusableLabel(message)
