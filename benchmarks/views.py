"""What it would cost to flip features instead of slices: how far an encoder is from being equivariant.

A view's row holds the features of the transformed slice. Transforming the features of the slice instead would take no
encoder and no disk; this is the error of that, a relative L2 error a slice, beside what the features of the slice as
it is would err in its place, and those of another slice in that view: an answer that has nothing to do with the slice.
Slices are cut to squares, the best case: padding lies at the bottom and at the right and would move too.

The weights are seeded. Trained ones may be nearer to equivariance or farther from it: whoever has a checkpoint gives
it, ``views.py sam_vit_b=FILE``, and the table says so.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import SAMKIT, cost_of, keep, sample
from numpy.typing import NDArray

from samkit.heads.views import View
from samkit.stages.encoders.base import Encoder, find_encoder
from samkit.store.workspace import open_workspace

ENCODERS = {"nano": 256, "sam_vit_b": 256}
VIEWS = ("flip-rows", "flip-columns", "transpose", "rotate90", "rotate180", "rotate+10-bilinear")
VOLUMES, SLICES = 4, 8
_INSTEAD = ("turned", "as_it_is", "of_another_slice")


def main() -> None:
    """Measure and keep."""
    weights = dict(argument.split("=", maxsplit=1) for argument in sys.argv[1:])
    slices = _slices()
    rows, numbers = [], {}
    for name, size in ENCODERS.items():
        file = Path(weights[name]) if name in weights else None
        encoder = find_encoder(name).load(file, size=size)
        whose = f"{name} at {size} px ({'trained' if encoder.trained else 'seeded'})"
        started = time.perf_counter()
        found = _errors(encoder, slices)
        numbers[name] = {"size_px": size, "trained": encoder.trained, "seconds": time.perf_counter() - started, **found}
        for view in VIEWS:
            rows.append([whose, view, *(f"{found[view][what]:.2f}" for what in (*_INSTEAD, "turned_worst"))])
    columns = ["encoder", "view", *(what.replace("_", " ") for what in _INSTEAD), "turned, worst slice"]
    title = f"Relative L2 error of features taken in place of those of the view, median of {len(slices)} slices"
    keep("views", title, columns, rows, {"slices": len(slices), **numbers})


def _slices() -> list[NDArray[np.float16]]:
    """Return square slices (1, side, side) of several volumes, from the middle of each."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as name:
        folder = Path(name)
        place = str(folder / "workspace")
        cost_of([*SAMKIT, "ingest", str(sample(folder / "source", VOLUMES)), "--workspace", place])
        each = SLICES // VOLUMES
        chosen = []
        for volume in open_workspace(place).volumes.values():
            first = (len(volume.slice_digests) - each) // 2
            chosen += list(volume.read_slices(first, first + each))
    squares = []
    for plane in chosen:
        rows, columns = plane.shape[1:]
        side = min(rows, columns)
        top, left = (rows - side) // 2, (columns - side) // 2
        squares.append(plane[:, top : top + side, left : left + side])
    return squares


def _errors(encoder: Encoder, slices: list[NDArray[np.float16]]) -> dict[str, dict[str, float]]:
    """Return by view the errors of its features, of transformed features and of untransformed ones in their place."""
    plain = [_features(encoder, plane) for plane in slices]
    found = {}
    for text in VIEWS:
        view = View.parse(text)
        # Cells that a rotation brings in from outside are nobody's features.
        inside = view.apply_to_image(np.ones(plain[0].shape[1:])) > 1 - 1e-9
        right = [_features(encoder, view.apply_to_image(plane)) for plane in slices]
        turned = [view.apply_to_image(features) for features in plain]
        others = [*right[SLICES // VOLUMES :], *right[: SLICES // VOLUMES]]  # of the next volume
        errors = {
            what: [_error(ours, true, inside) for ours, true in zip(instead, right, strict=True)]
            for what, instead in zip(_INSTEAD, (turned, plain, others), strict=True)
        }
        found[text] = {what: float(np.median(values)) for what, values in errors.items()}
        found[text]["turned_worst"] = max(errors["turned"])
    return found


def _features(encoder: Encoder, plane: NDArray[np.float16]) -> NDArray[Any]:
    """Return (C, h, w) float64 of a slice (1, rows, columns)."""
    return np.asarray(encoder(torch.from_numpy(plane[None]))[0].numpy().astype(np.float64))


def _error(ours: NDArray[Any], right: NDArray[Any], inside: NDArray[np.bool_]) -> float:
    difference, norm = (np.linalg.norm(array[:, inside]) for array in (ours - right, right))
    return float(difference / norm)


if __name__ == "__main__":
    main()
