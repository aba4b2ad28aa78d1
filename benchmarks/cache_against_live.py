"""A training step from the cache beside the same step with the encoder run live, and whether the losses agree.

Live is what published code does: the `segment-anything` package's own encoder, fp32, run on every batch of
every step, without gradients. Both train the same head from the same start on the same slices in the same order;
only where the features come from differs. SAM's ViT-B with seeded weights at 512 pixels: the time does not depend on
the weights, and the cache's rounding to float16 shows in the losses either way.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import keep, sample

from samkit.heads.base import HeadContext, find_head
from samkit.heads.feeding import LabelledSlices
from samkit.heads.fitting import Step, fit
from samkit.heads.recipes import FitOptions
from samkit.pipeline.commands.embed import embed_all
from samkit.stages.encoders.base import Encoder, find_encoder
from samkit.stages.ingest import IngestOptions, ingest
from samkit.stages.readers.layouts import LayoutOptions, find_sources
from samkit.stages.training.beginnings import mask_decoder_of
from samkit.store.slices import SliceFinder
from samkit.store.workspace import Workspace, open_workspace

HEADS = ("linear", "autosam")
INPUT_PX = 512
STEPS = 50
BATCH = 2
TARGET = 20


def main() -> None:
    """Measure and keep."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = sampled_workspace(Path(folder))
        encoder = find_encoder("sam_vit_b").load(None, size=INPUT_PX)
        embeddings = embed_all(workspace, encoder, None).embeddings
        volumes = list(workspace.volumes.values())
        slices = LabelledSlices(embeddings, volumes, memory_bytes=1 << 40)
        found = SliceFinder({volume.id: volume for volume in volumes})
        keys = [key for volume in volumes for key in volume.row_keys()]
        images = [torch.from_numpy(found.read(key)[None]) for key in keys]
        options = FitOptions(steps=STEPS, batch_size=BATCH)
        rows, numbers = (
            [],
            {"input_px": INPUT_PX, "steps": STEPS, "batch": BATCH, "slices": len(keys), "target": TARGET},
        )
        for name in HEADS:
            context = HeadContext(
                input_shape=encoder.embedding_shape,
                class_count=1 + len(workspace.label_names),
                mask_decoder=mask_decoder_of(embeddings),
            )
            cached, cached_seconds = _timed(name, context, slices.batches(BATCH, 0, torch.device("cpu")), options)
            live, live_seconds = _timed(name, context, _live(encoder, images, slices, BATCH), options)
            ratio = live_seconds / cached_seconds
            apart = max(abs(a.loss - b.loss) / abs(b.loss) for a, b in zip(cached, live, strict=True))
            epoch_steps = -(-len(keys) // BATCH)
            per_epoch = [seconds / STEPS * epoch_steps for seconds in (live_seconds, cached_seconds)]
            rows.append([name, f"{per_epoch[0]:.1f}", f"{per_epoch[1]:.2f}", f"{ratio:.1f}", f"{apart:.0e}"])
            numbers[name] = {
                "live_seconds_per_epoch": per_epoch[0],
                "cached_seconds_per_epoch": per_epoch[1],
                "times_faster": ratio,
                "largest_relative_difference_of_losses": apart,
            }
    title = f"One epoch over {len(keys)} slices, sam_vit_b at {INPUT_PX}, fp32; losses over {STEPS} steps"
    keep("cache_against_live", title, ["head", "live s", "cached s", "times faster", "losses differ by"], rows, numbers)


def sampled_workspace(folder: Path) -> Workspace:
    """Return a workspace of two labelled volumes, ingested."""
    source = sample(folder / "source", volumes=2)
    path = folder / "workspace"
    for _ in ingest(path, find_sources(source, LayoutOptions(id_key=b"benchmark")), IngestOptions()):
        pass
    return open_workspace(path)


def _live(
    encoder: Encoder, images: list[torch.Tensor], slices: LabelledSlices, batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of `LabelledSlices.batches`, encoded now instead of read."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(len(slices))
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch].tolist()
            prepared = torch.cat([encoder.prepare(images[index]) for index in chosen])
            yield encoder.encode(prepared, "package").clone(), slices.labels(chosen).long()


def _timed(
    name: str, context: HeadContext, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], options: FitOptions
) -> tuple[list[Step], float]:
    head = find_head(name).build(context)
    started = time.perf_counter()
    steps = list(fit(head, batches, options))
    return steps, time.perf_counter() - started


if __name__ == "__main__":
    main()
