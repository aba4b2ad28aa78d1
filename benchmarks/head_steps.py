"""What a training step of each head costs from the cache, where its time goes, and how many times as long it is live.

Live is what published code does: the `segment-anything` package's encoder, float32, run on every batch of every step,
without gradients; and beside it samkit's own forward pass. SAM's ViT-B with seeded weights, because time does not
depend on them. The encoder is timed on the very batches that the heads are trained on, in the same run; a step live is
that time and the head's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cache_against_live import sampled_workspace
from measure import keep

from samkit.heads.base import Head, HeadContext, find_head
from samkit.heads.feeding import LabelledSlices
from samkit.heads.losses import segmentation_loss
from samkit.heads.seen import Seen, Sees
from samkit.pipeline.commands.embed import embed_all
from samkit.stages.encoders.base import find_encoder
from samkit.stages.encoders.memory import keep_freed_memory
from samkit.stages.training.beginnings import mask_decoder_of
from samkit.store.slices import SliceFinder

HEADS = ("probe", "linear", "cnn", "hybrid", "autosam", "ladder", "cnn-published")
BATCH = 2
#: Times as long live as from the cache, of `linear`, beside the package in float32.
TARGETS = {512: 20, 1024: 60}
ENCODED = 3  # batches
PARTS = ("features", "head forward", "loss", "backward", "optimiser")
#: Of a step, at most, in what is neither the head nor its loss.
FEEDING_TARGET = 0.15
_LEAST_SECONDS, _LEAST_STEPS = 4.0, 6


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(TARGETS))
    keep_freed_memory()
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {"batch": BATCH, "targets": TARGETS, "feeding_target": FEEDING_TARGET}
    for size in parser.parse_args().sizes:
        with tempfile.TemporaryDirectory() as folder:
            told, numbers[str(size)] = measured(Path(folder), size)
            rows += told
    columns = ["px", "head", "step ms", *(f"{part} %" for part in PARTS), "times, package live", "times, samkit live"]
    keep("head_steps", f"A training step on {BATCH} slices of sam_vit_b's features, in memory", columns, rows, numbers)


def measured(folder: Path, size: int) -> tuple[list[list[str]], dict[str, Any]]:
    """Return rows of the table and all numbers of one size."""
    workspace = sampled_workspace(folder)
    encoder = find_encoder("sam_vit_b").load(None, size=size)
    volumes = list(workspace.volumes.values())[:1]
    keys = [key for volume in volumes for key in volume.row_keys()]
    embeddings = embed_all(workspace, encoder, None, wanted=keys).embeddings
    found = SliceFinder({volume.id: volume for volume in volumes})
    prepared = [encoder.prepare(torch.from_numpy(found.read(key)[None])) for key in keys[: BATCH * ENCODED]]
    batches = [torch.cat(prepared[first : first + BATCH]) for first in range(0, len(prepared), BATCH)]
    live = {
        path: statistics.median(_seconds(lambda one=one, path=path: encoder.encode(one, path)) for one in batches)
        for path in ("package", encoder.kernel_paths[0])
    }
    rows, numbers = [], {"encoder_seconds": live}
    for name in HEADS:
        head_class = find_head(name)
        with_slices = head_class.sees is Sees.FEATURES_AND_SLICES
        slices = LabelledSlices(embeddings, volumes, memory_bytes=1 << 40, with_slices=with_slices)
        context = HeadContext(
            input_shape=encoder.embedding_shape,
            class_count=1 + len(workspace.label_names),
            mask_decoder=mask_decoder_of(embeddings),
        )
        split = split_of_step(head_class.build(context), slices.batches(BATCH, 0, torch.device("cpu")))
        step = sum(split.values())
        times = {path: (seconds + step) / step for path, seconds in live.items()}
        numbers[name] = {"step_seconds": step, "split_seconds": split, "times_as_long_live": times}
        shares = (f"{100 * split[part] / step:.0f}" for part in PARTS)
        rows.append([str(size), name, f"{1000 * step:.0f}", *shares, *(f"{ratio:.0f}" for ratio in times.values())])
    return rows, numbers


def split_of_step(head: Head, batches: Iterator[tuple[Seen, torch.Tensor]]) -> dict[str, float]:
    """Return the median seconds of each part of a step; the first ones, which begin things, are left out."""
    optimiser = torch.optim.AdamW([one for one in head.parameters() if one.requires_grad])
    head.train()
    taken: defaultdict[str, list[float]] = defaultdict(list)
    until = time.perf_counter() + _LEAST_SECONDS
    while time.perf_counter() < until or len(taken["loss"]) < _LEAST_STEPS:
        marks = [time.perf_counter()]
        seen, labels = next(batches)
        marks.append(time.perf_counter())
        logits = head(seen)
        marks.append(time.perf_counter())
        loss = segmentation_loss(logits, labels).total
        marks.append(time.perf_counter())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        marks.append(time.perf_counter())
        optimiser.step()
        marks.append(time.perf_counter())
        for part, seconds in zip(PARTS, np.diff(marks), strict=True):
            taken[part].append(float(seconds))
    return {part: statistics.median(seconds[2:]) for part, seconds in taken.items()}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
