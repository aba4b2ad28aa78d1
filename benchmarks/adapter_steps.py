"""What a step of Medical SAM Adapter costs on a cached prefix, and how many times as long it is with the encoder live.

SAM's ViT-B with seeded weights, because time does not depend on them; adapters in the last blocks, with attention
through slices. Both steps give the same gradients (a test); here they are taken in turn. Live, everything before the
first adapted block runs in every step, by samkit's own arithmetic; beside that, what the `segment-anything` package
takes for the same blocks, as published code runs them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cache_against_live import sampled_workspace
from head_steps import PARTS, split_of_step
from measure import in_turn, keep

from samkit.heads.base import HeadContext, find_head
from samkit.heads.chunks import ChunkHead, LabelledChunks
from samkit.heads.feeding import LabelledSlices, LabelledSquares
from samkit.heads.seen import Seen
from samkit.pipeline.commands.embed import embed_all
from samkit.stages.encoders.base import Encoder, find_encoder
from samkit.stages.encoders.memory import keep_freed_memory
from samkit.stages.training.beginnings import mask_decoder_of
from samkit.store.slices import SliceFinder

BATCH = 2
#: Numbers of adapted blocks by the size; at 1024 px a step takes half a minute.
ADAPTED = {512: (2, 3, 6), 1024: (2,)}
#: Times as long live as on a cached prefix, with so many adapted blocks.
TARGETS = {2: 2.5}
ROUNDS = 3
DEPTH = 12


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, choices=ADAPTED, default=list(ADAPTED))
    keep_freed_memory()
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {"batch": BATCH, "targets": TARGETS}
    for size in parser.parse_args().sizes:
        numbers[str(size)] = {}
        for adapted in ADAPTED[size]:
            with tempfile.TemporaryDirectory() as folder:
                told, numbers[str(size)][str(adapted)] = measured(Path(folder), size, adapted)
            rows.append(told)
    columns = ["px", "adapted blocks", "cached, s", *(f"{part} %" for part in PARTS), "live, s", "times", "by package"]
    keep("adapter_steps", f"A training step of med-sa on {BATCH} slices, sam_vit_b", columns, rows, numbers)


def measured(folder: Path, size: int, adapted: int) -> tuple[list[str], dict[str, Any]]:
    """Return a row of the table and all numbers of one size and one number of adapted blocks."""
    workspace = sampled_workspace(folder)
    volumes = list(workspace.volumes.values())[:1]
    keys = volumes[0].row_keys()
    tapped = find_encoder("sam_vit_b").load(None, size=size, tap=f"block:{DEPTH - adapted}")
    embeddings = embed_all(workspace, tapped, None, wanted=keys).embeddings
    classes = 1 + len(workspace.label_names)

    def built(name: str) -> ChunkHead:
        context = HeadContext(
            input_shape=tapped.embedding_shape,
            class_count=classes,
            mask_decoder=mask_decoder_of(embeddings),
            live_encoder=tapped.live,
            block=tapped.recipe.block,
            options={"adapted-blocks": f"last:{adapted}", "chunk": str(BATCH)},
        )
        head = find_head(name).build(context)
        assert isinstance(head, ChunkHead)
        return head

    def batches(head: ChunkHead, rows: LabelledSlices | LabelledSquares) -> Iterator[tuple[Seen, torch.Tensor]]:
        return LabelledChunks(rows, volumes, head, classes).batches(BATCH, 0, torch.device("cpu"))

    cached, live = built("med-sa"), built("med-sa-live")
    steps_cached = batches(cached, LabelledSlices(embeddings, volumes, memory_bytes=1 << 40))
    steps_live = batches(live, LabelledSquares(embeddings.recipe, volumes))
    splits: list[dict[str, float]] = []

    def one_cached() -> float:
        splits.append(split_of_step(cached, steps_cached))
        return sum(splits[-1].values())

    seconds_live, seconds, ratio = in_turn(lambda: sum(split_of_step(live, steps_live).values()), one_cached, ROUNDS)
    prefix = _prefix_seconds(tapped, workspace.volumes, keys[:BATCH])
    by_package = (seconds + prefix) / seconds
    split = splits[-1]
    shares = [f"{100 * split[part] / sum(split.values()):.0f}" for part in PARTS]
    numbers = {
        "cached_seconds": seconds,
        "split_seconds": split,
        "live_seconds": seconds_live,
        "times_as_long_live": ratio,
        "package_prefix_seconds": prefix,
        "times_as_long_by_package": by_package,
    }
    told = [str(size), str(adapted), f"{seconds:.2f}", *shares, f"{seconds_live:.2f}", f"{ratio:.1f}"]
    return [*told, f"{by_package:.1f}"], numbers


def _prefix_seconds(tapped: Encoder, volumes: Any, keys: Any) -> float:  # noqa: ANN401 - of the workspace
    """Return what the package takes for everything before the first adapted block, of a batch."""
    found = SliceFinder(volumes)
    prepared = tapped.prepare(torch.stack([torch.from_numpy(found.read(key)) for key in keys]))
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        tapped.encode(prepared, "package")
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
