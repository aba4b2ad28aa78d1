"""A small workspace in which every kind of file of the format occurs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from samkit.heads.base import MASK_DECODER_FILE
from samkit.heads.linear import Linear
from samkit.heads.recipes import FitOptions
from samkit.stages.embed import create_derived, derive_shard
from samkit.stages.train import train
from samkit.stages.training.plan import TrainOptions
from samkit.store.embeddings import ShardPlan
from samkit.store.slices import PackedVolume, Pixels, VolumeRecord, write_packs
from samkit.store.workspace import Workspace, open_workspace

from .tiny_sam import TINY
from .workspaces import LABEL_NAMES, add_volume, boxes, embed


def workspace_of_everything(path: Path) -> Workspace:
    """Four volumes and a pack of two, float32 rows in a journal segment, int8 rows in a record, a run, a snapshot."""
    workspace = Workspace.create(path, LABEL_NAMES)
    for number in range(3):
        add_volume(workspace, f"subject{number}", *boxes(number))
    _add_pack(workspace, {"picture0": 10, "picture1": 11})
    workspace.index.write_snapshot(workspace.index.read())
    add_volume(workspace, "subject3", *boxes(3))

    exact = TINY.load(None, size=64, device="cpu", precision="float32", storage_precision="float32")
    # A whole decoder is 10 MB; `linear` starts from its upscaling alone.
    whole = exact.mask_decoder
    decoder = replace(
        whole, decoder={name: tensor for name, tensor in whole.decoder.items() if name.startswith("output_upscaling")}
    ).to_bytes()
    workspace.create_embeddings(exact.recipe, trained=False, attachments={MASK_DECODER_FILE: decoder})
    source = embed(open_workspace(path), exact)
    source.journal.compact()
    recipe = replace(exact.recipe, storage_precision="int8")
    target = create_derived(open_workspace(path), source, recipe)
    keys = [key for volume in open_workspace(path).volumes.values() for key in volume.row_keys()]
    derive_shard(ShardPlan(recipe_id=recipe.id, keys=tuple(keys)), source, target, writer="test")

    complete = open_workspace(path)
    options = TrainOptions(head="linear", subjects=1, draw=0, fit=FitOptions(steps=2, batch_size=2))
    train(complete, complete.embeddings(source.recipe.id), Linear, options)
    return open_workspace(path)


def _add_pack(workspace: Workspace, seeds: dict[str, int]) -> None:
    pictures = {}
    for name, seed in seeds.items():
        image, label = boxes(seed, slices=1, side=30 + seed)
        pictures[name] = Pixels(image=image, label=label)
    places = write_packs(workspace.path, pictures)
    like = workspace.volumes["subject0"].record
    workspace.commit_volumes(_record(like, name, pictures[name], places[name]) for name in pictures)


def _record(like: VolumeRecord, name: str, pixels: Pixels, place: PackedVolume) -> VolumeRecord:
    slices, channels, rows, columns = pixels.image.shape
    return replace(
        like,
        id=name,
        subject=name,
        identity=name,
        shape=(slices, channels, rows, columns),
        slice_digests=tuple(digest for digest in pixels.digests[:-1] if digest),
        label_digest=pixels.digests[-1],
        pixels=place.pixels,
        files=place.files,
        plane=place.plane,
    )
