"""Several volumes in one series: what tells them apart is an echo time, a b-value, a time, or only the numbering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from .answers import Answer, Answers, FourDAnswer, Maker
from .instances import AXIAL, ds, position
from .phantom import SHAPE
from .series import stored_mr, write_series

__all__ = ["FOUR_D", "as_four_d", "b_values", "echoes", "four_d", "numbered_only", "time_points", "volumes_of"]

Mark = Callable[[Dataset, int], None]
"""(dataset, volume) -> sets what tells the volumes apart."""


def volumes_of(count: int, *, seed: int = 0) -> NDArray[np.uint16]:
    """Return (column, row, slice, volume): the phantom fading, so that volumes cannot be mistaken for each other."""
    first = stored_mr(seed=seed)
    return np.stack([(first * (1 - 0.17 * n) + 3 * n).astype(np.uint16) for n in range(count)], axis=-1)


def four_d(
    folder: Path,
    seed: int,
    *,
    mark: Mark,
    key: Literal["echo", "b-value", "time"],
    choices: Sequence[float],
    interleaved: bool = False,
    numbered: bool = False,
    **options: Any,
) -> tuple[FourDAnswer]:
    """Write one series of ``len(choices)`` volumes; `interleaved`: all volumes of a position follow each other.

    `mark` sets what tells them apart, and nothing else does: InstanceNumbers are drawn by lot, as are the names of the
    files. `numbered`: InstanceNumber runs in their order, through one volume after the other where not interleaved.
    """
    count, slices = len(choices), SHAPE[2]
    volumes = volumes_of(count, seed=seed)
    order = [(v, k) for v in range(count) for k in range(slices)]
    if interleaved:
        order = [(v, k) for k in range(slices) for v in range(count)]
    lots = np.arange(len(order)) if numbered else np.random.default_rng([seed, 4]).permutation(len(order))
    answer = write_series(
        folder,
        seed=seed,
        modality="MR",
        instance_number=lambda n: int(lots[n]) + 1,
        stored=np.stack([volumes[:, :, k, v] for v, k in order], axis=-1),
        positions_mm=np.array([position(AXIAL, k) for _, k in order]),
        name=lambda n, total: f"{(n * 523 + 77) % 1009:04d}.dcm",
        change=lambda n, dataset: mark(dataset, order[n][0]),
        **options,
    )
    return (as_four_d(answer, volumes, key=key, choices=choices),)


def as_four_d(
    answer: Answer, volumes: NDArray[Any], *, key: Literal["echo", "b-value", "time"], choices: Sequence[float]
) -> FourDAnswer:
    """Turn the answer for one long stack into that of several volumes, (column, row, slice, volume)."""
    known: dict[str, Any] = {field.name: getattr(answer, field.name) for field in fields(Answer)}
    known |= {"values": None, "fate": "refused", "reason": "4-D", "facts": {"volumes": len(choices)}}
    each = tuple(np.asarray(volumes[..., n], dtype=np.float64) for n in range(volumes.shape[-1]))
    return FourDAnswer(**known, volumes=each, key=key, choices=tuple(float(choice) for choice in choices))


def echoes(folder: Path, seed: int = 0, *, times_ms: Sequence[float] = (2.46, 4.92, 7.38)) -> Answers:
    """Echo times, interleaved by position."""

    def mark(dataset: Dataset, volume: int) -> None:
        dataset.EchoTime, dataset.EchoNumbers = ds(times_ms[volume]), volume + 1

    return four_d(folder, seed, mark=mark, key="echo", choices=times_ms, interleaved=True)


def b_values(
    folder: Path,
    seed: int = 0,
    *,
    values: Sequence[float] = (0, 50, 800),
    written_by: Literal["standard", "Siemens", "GE", "GE with offset"] = "standard",
) -> Answers:
    """Diffusion weightings, where each vendor writes them; a value that comes twice has another gradient direction.

    "GE with offset" adds 1e9, as its newer software does in (0043,1039).
    """

    def mark(dataset: Dataset, volume: int) -> None:
        value = values[volume]
        if written_by == "standard":
            dataset.DiffusionBValue = float(value)
            if value:
                dataset.DiffusionGradientOrientation = [float(axis == volume % 3) for axis in range(3)]
        elif written_by == "Siemens":
            block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0C, "IS", str(int(value)))
        else:
            number = int(value) + (1_000_000_000 if written_by == "GE with offset" else 0)
            dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [number, 0, 0, 0])

    return four_d(folder, seed, mark=mark, key="b-value", choices=values, numbered=len(set(values)) < len(values))


def time_points(
    folder: Path,
    seed: int = 0,
    *,
    tag: Literal["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "AcquisitionTime"],
    count: int = 4,
    interleaved: bool = False,
) -> Answers:
    """Volumes in time, told apart by one attribute; a TriggerTime in ms is that of a heart's phase."""
    of = {
        "TemporalPositionIdentifier": lambda volume: volume + 1,
        "AcquisitionNumber": lambda volume: volume + 1,
        "TriggerTime": lambda volume: ds(37.5 * volume),
        "AcquisitionTime": lambda volume: f"1011{10 + 3 * volume:02d}.5",
    }

    def mark(dataset: Dataset, volume: int) -> None:
        setattr(dataset, tag, of[tag](volume))

    return four_d(folder, seed, mark=mark, key="time", choices=range(count), interleaved=interleaved)


def numbered_only(folder: Path, seed: int = 0, *, count: int = 3) -> Answers:
    """Nothing but InstanceNumber tells the volumes apart: it runs through one after the other."""
    return four_d(folder, seed, mark=lambda dataset, volume: None, key="time", choices=range(count), numbered=True)


def timed_by_slice(folder: Path, seed: int = 0, *, count: int = 3) -> Answers:
    """Every slice has an AcquisitionTime of its own, some before midnight and some after, and no InstanceNumber."""

    def mark(dataset: Dataset, volume: int) -> None:
        seconds = 86395 + 0.7 * (dataset.InstanceNumber - 1)
        minutes, second = divmod(round(seconds % 86400, 1), 60)
        dataset.AcquisitionTime = f"{int(minutes) // 60:02d}{int(minutes) % 60:02d}{second:04.1f}"
        dataset.InstanceNumber = None

    return four_d(folder, seed, mark=mark, key="time", choices=range(count), numbered=True)


def heart_beats(folder: Path, seed: int = 0, *, count: int = 4) -> Answers:
    """TriggerTime in ms from an R peak of its own at each position: no two positions have the same ones."""

    def mark(dataset: Dataset, volume: int) -> None:
        dataset.TriggerTime = ds(37.5 * volume + 1.7 * float(dataset.ImagePositionPatient[2]))
        dataset.InstanceNumber = None

    return four_d(folder, seed, mark=mark, key="time", choices=range(count), interleaved=True)


def magnitude_and_phase(folder: Path, seed: int = 0) -> Answers:
    """ImageType M and P in one series: the magnitude is taken, the phase is refused."""

    def mark(dataset: Dataset, volume: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "MP"[volume], "ND"]

    (answer,) = four_d(folder, seed, mark=mark, key="time", choices=range(2))
    return (replace(answer, fate="taken", values=answer.volumes[0]),)


FOUR_D: dict[str, Maker] = {
    "echoes": echoes,
    "b-values": b_values,
    "b-values by Siemens": partial(b_values, written_by="Siemens"),
    "b-values by GE": partial(b_values, written_by="GE"),
    "b-values by GE with offset": partial(b_values, written_by="GE with offset"),
    "b-values with directions": partial(b_values, values=(0, 1000, 1000, 1000)),
    "temporal positions": partial(time_points, tag="TemporalPositionIdentifier"),
    "acquisitions": partial(time_points, tag="AcquisitionNumber", interleaved=True),
    "heart phases": partial(time_points, tag="TriggerTime", interleaved=True),
    "acquisition times": partial(time_points, tag="AcquisitionTime"),
    "times by slice over midnight": timed_by_slice,
    "heart phases from their own beats": heart_beats,
    "numbered only": numbered_only,
    "magnitude and phase": magnitude_and_phase,
}
"""All but magnitude and phase are refused until a volume is chosen; `FourDAnswer.choices` lists what can be."""
