"""Test volumes slice by slice: each picture once, and on it the outlines of the reference and of what heads found."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

from ...store.errors import DamagedStore
from ...store.runs import Run
from ...store.slices import Volume
from ...store.workspace import Workspace

# A page of six heads has some twenty volumes: at most so many slices of each, at most so large, are 4 MB.
_MOST_SLICES = 24
_MOST_PIXELS = 384
_QUALITY = 78
# The patient's side at the left and at the right of the picture, in display orientation (see readers.geometry).
_SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}

Label = NDArray[np.unsignedinteger[Any]]
Outlines = dict[str, str]
"""The outline of each class that there is, as the path of an SVG, by the class's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PicturedVolume:
    """The slices of a volume that are shown."""

    id: str
    #: Width and height of a picture, in units of a slice's column, so that pixels have their proportions.
    width: float
    height: float
    rows: int
    #: Letters of the patient's sides, left and right.
    sides: tuple[str, str]
    #: Numbers of the slices, from 0, of how many.
    positions: tuple[int, ...]
    slices: int
    #: Data URIs, and outlines of the reference, one a position.
    pictures: tuple[str, ...] = field(repr=False)
    reference: tuple[Outlines, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A volume as a run has segmented it."""

    run_id: str
    #: What the page calls it: ``linear@5#0 (steps 45)``.
    name: str
    #: "worst", "median", "best", or "only".
    place: str
    volume_id: str
    dice: float
    #: Which of the volume's positions is shown first: the slice with most wrong pixels.
    first: int
    #: Outlines of what was found, one a position.
    found: tuple[Outlines, ...] = field(repr=False)


def cases_of(workspace: Workspace, runs: Mapping[str, Run]) -> tuple[list[Case], dict[str, PicturedVolume]]:
    """Return the worst, the median and the best test volume of each run, and the pictures of all these volumes.

    Parameters
    ----------
    workspace
        Of the volumes.
    runs
        By what the page calls them.

    Raises
    ------
    DamagedStore
        When slices, a label or a prediction are not what was kept.
    """
    chosen = [_Chosen(name, run, *graded) for name, run in runs.items() for graded in _graded(run)]
    cases: dict[tuple[str, str], Case] = {}
    pictured: dict[str, PicturedVolume] = {}
    # Volume by volume: of a large one, a label map is a hundred megabytes for each run.
    for volume_id in dict.fromkeys(one.volume_id for one in chosen):
        of_volume = [one for one in chosen if one.volume_id == volume_id]
        pictured[volume_id], found = _volume_with_cases(workspace.volumes[volume_id], of_volume)
        cases |= {(case.run_id, volume_id): case for case in found}
    return [cases[one.run.id, one.volume_id] for one in chosen], pictured


class _Chosen(NamedTuple):
    """A volume that is pictured of a run."""

    name: str
    run: Run
    place: str
    dice: float
    volume_id: str


def _volume_with_cases(volume: Volume, of_volume: Sequence[_Chosen]) -> tuple[PicturedVolume, list[Case]]:
    """Return the pictures of a volume, and what some runs have found in it."""
    reference = volume.read_label()
    if reference is None:  # what is scored has a label, and a run whose volumes changed is not pictured
        message = f"{volume.id} has no label, and a run was scored on it. Ingest the volume with its label again."
        raise DamagedStore(message)
    predictions = [one.run.predictions[volume.id] for one in of_volume]
    worst = [int(np.argmax((reference != found).sum(axis=(1, 2)))) for found in predictions]
    shown = np.any([label.any(axis=(1, 2)) for label in (reference, *predictions)], axis=0)
    pictured = _pictured(volume, reference, positions_of(shown, set(worst)))
    cases = [
        Case(
            run_id=chosen.run.id,
            name=chosen.name,
            place=chosen.place,
            volume_id=volume.id,
            dice=chosen.dice,
            first=pictured.positions.index(wrong),
            found=tuple(outlines(found[one], chosen.run.settings.label_names) for one in pictured.positions),
        )
        for chosen, found, wrong in zip(of_volume, predictions, worst, strict=True)
    ]
    return pictured, cases


def positions_of(shown: NDArray[np.bool_], needed: set[int]) -> tuple[int, ...]:
    """Return which slices are pictured: those with something on them, evenly thinned to so many, and those needed.

    >>> positions_of(np.array([False, True, True, False, True]), {3})
    (1, 2, 3, 4)
    """
    candidates = np.flatnonzero(shown)
    left = max(1, _MOST_SLICES - len(needed))
    thinned = candidates[np.linspace(0, len(candidates) - 1, min(left, len(candidates))).round().astype(int)]
    return tuple(sorted({*thinned.tolist(), *needed}))


def outlines(label: Label, label_names: Mapping[int, str]) -> Outlines:
    """Return the outline of each class of a plane (rows, columns), in pixels: the middle of the first is (0.5, 0.5)."""
    # A border of background closes the outline of what touches the edge.
    padded = np.pad(label, 1)
    found = {}
    for value, name in label_names.items():
        mask = padded == value
        if mask.any():
            lines = contour_generator(z=mask.astype(np.float64)).lines(0.5)
            # In the padded plane the middle of the first pixel is (1, 1).
            found[name] = "".join(_path(np.asarray(line) - 0.5) for line in lines)
    return found


def _path(line: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line[:-1]) + "Z"


def _graded(run: Run) -> list[tuple[str, float, str]]:
    """Return (place, Dice, volume id) of the worst, the median and the best test volume; of one or two each once."""
    graded = sorted(
        (float(np.mean(found)), volume["volume_id"])
        for volume in run.scores
        if (found := [score["dice"] for score in volume["scores"] if score["dice"] is not None])
    )
    if not graded:
        return []
    places = {len(graded) // 2: "median", len(graded) - 1: "best", 0: "worst"}
    if len(graded) == 1:
        places = {0: "only"}
    return [(places[number], *graded[number]) for number in sorted(places)]


def _pictured(volume: Volume, reference: Label, positions: Sequence[int]) -> PicturedVolume:
    _, _, rows, columns = volume.record.shape
    aspect = 1.0 if volume.spacing_mm is None else volume.spacing_mm[1] / volume.spacing_mm[2]
    return PicturedVolume(
        id=volume.id,
        width=columns,
        height=rows * aspect,
        rows=rows,
        sides=_SIDES.get(volume.record.orientation["plane"], ("", "")),
        positions=tuple(positions),
        slices=volume.record.shape[0],
        pictures=tuple(_picture(volume.read_slice(one)) for one in positions),
        reference=tuple(outlines(reference[one], volume.label_names) for one in positions),
    )


def _picture(image: NDArray[np.float16]) -> str:
    """Return a slice (channels, rows, columns) in [0, 1] as a data URI, its longer side at most so many pixels."""
    grey = (image.astype(np.float32).mean(axis=0) * 255).round().astype(np.uint8)
    picture = Image.fromarray(grey)
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    data = io.BytesIO()
    picture.save(data, format="webp", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
