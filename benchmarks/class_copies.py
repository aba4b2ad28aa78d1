"""How many times as fast AutoSAM's decoder is without the copies of the embedding that the published code makes.

The published head repeats the embedding once a class and runs SAM's decoder on all of these; samkit's asks one
embedding for all classes (`heads.two_way`, `heads.upscaling`) and answers the same to rounding. Here both have the same
weights and see the same features of 64 x 64 cells: forward alone, and forward and backward, in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from measure import in_turn, keep
from torch import Tensor

from samkit.heads.autosam import AutoSam
from samkit.heads.base import HeadContext
from samkit.stages.encoders.memory import keep_freed_memory

BATCH, CHANNELS, CELLS = 2, 256, 64
#: ACDC's three structures, and Synapse's eight, with background.
CLASSES = (4, 9)
#: Times as fast, forward and backward.
TARGET = 1.5
ROUNDS = 7


def main() -> None:
    """Measure and keep."""
    keep_freed_memory()
    features = torch.randn(BATCH, CHANNELS, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {"batch": BATCH, "cells": CELLS, "target": TARGET}
    for count in CLASSES:
        head = AutoSam.build(HeadContext(input_shape=(CHANNELS, CELLS, CELLS), class_count=count))
        told, numbers[str(count)] = measured(head, features)
        rows.append(told)
    columns = ["classes", *(f"{what}: copies, ms | shared | times" for what in ("forward", "and backward")), "differ"]
    keep("class_copies", f"AutoSAM's decoder on {BATCH} slices of {CELLS} x {CELLS} cells", columns, rows, numbers)


def measured(head: AutoSam, features: Tensor) -> tuple[list[str], dict[str, Any]]:
    """Return a row of the table and all numbers of one number of classes."""

    def copies() -> Tensor:
        return by_copies(head, features)

    def shared() -> Tensor:
        return head.answered(features)

    with torch.no_grad():
        expected = copies()
        difference = float((shared() - expected).abs().max() / expected.abs().max())
        forward = in_turn(lambda: _seconds(copies), lambda: _seconds(shared), ROUNDS)
    step = in_turn(lambda: _step_seconds(copies), lambda: _step_seconds(shared), ROUNDS)
    numbers: dict[str, Any] = {"largest_relative_difference": difference}
    row = [str(head.class_count)]
    for name, (by_copying, without, ratio) in (("forward", forward), ("step", step)):
        numbers[name] = {"copies_seconds": by_copying, "shared_seconds": without, "times_as_fast": ratio}
        row.append(f"{1000 * by_copying:.0f} | {1000 * without:.0f} | {ratio:.2f}")
    return [*row, f"{difference:.0e}"], numbers


def by_copies(head: AutoSam, features: Tensor) -> Tensor:
    """Return the logits as the published code computes them: (B K) embeddings through the package's modules."""
    classes = head.class_count
    source = (features + head.no_mask.view(1, -1, 1, 1)).repeat_interleave(classes, dim=0)
    position = head.position((CELLS, CELLS))[None].expand(len(source), -1, -1, -1)
    tokens, cells = head.transformer(source, position, head.class_tokens.repeat(len(features), 1, 1))
    finest = head.output_upscaling(cells.transpose(1, 2).view_as(source))
    weights = head.hypernetwork(tokens[:, 1])
    return torch.einsum("nc,ncij->nij", weights, finest).view(len(features), classes, *finest.shape[-2:])


def _seconds(answer: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    answer()
    return time.perf_counter() - started


def _step_seconds(answer: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    answer().square().mean().backward()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
