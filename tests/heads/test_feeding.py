"""What a head is fed is what the store holds, in memory or streamed, and verified either way."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from examples.edits import flip
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, embed, workspace_of_boxes

from samkit.heads.feeding import LabelledSlices
from samkit.store.arrays import array_files
from samkit.store.errors import DamagedStore, InputError, MissingEmbeddings
from samkit.store.workspace import Workspace, open_workspace

IN_MEMORY, STREAMED = 1 << 30, 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace of two subjects and their embeddings. Not to be changed: take `fed` for that."""
    workspace = workspace_of_boxes(tmp_path_factory.mktemp("feeding") / "workspace", subjects=2)
    embed(workspace, TINY.load(None))
    return workspace


@pytest.fixture
def workspace(made, tmp_path) -> Workspace:
    shutil.copytree(os.fspath(made.path), tmp_path / "workspace")
    return open_workspace(tmp_path / "workspace")


def fed(workspace: Workspace, memory_bytes: int) -> LabelledSlices:
    return LabelledSlices(workspace.embeddings("tiny"), list(workspace.volumes.values()), memory_bytes)


def test_streamed_slices_are_those_in_memory(made):
    kept, streamed = fed(made, IN_MEMORY), fed(made, STREAMED)
    assert (kept.streamed, streamed.streamed) == (False, True)
    for chosen in ([4, 0, 2], range(6), [3, 3]):
        assert torch.equal(streamed.features(chosen), kept.features(chosen))
        assert torch.equal(streamed.labels(chosen), kept.labels(chosen))
        assert streamed.labels(chosen).dtype == torch.uint8


def label_folder(workspace: Workspace):
    return workspace.path / workspace.volumes["subject0"].record.pixels / "label"


def test_a_label_that_is_changed_while_features_are_streamed_does_not_reach_training(workspace):
    slices = fed(workspace, STREAMED)
    before = slices.labels(range(6)).clone()
    _, other = boxes(99)
    label_folder(workspace).publish_folder(array_files(other))
    assert torch.equal(slices.labels(range(6)), before)


@pytest.mark.parametrize("memory_bytes", [IN_MEMORY, STREAMED])
def test_a_label_that_was_changed_before_is_refused(workspace, memory_bytes):
    _, other = boxes(99)
    label_folder(workspace).publish_folder(array_files(other))
    with pytest.raises(DamagedStore, match=r"subject0: its label .* does not match its digest"):
        fed(workspace, memory_bytes)


def test_a_row_that_is_damaged_while_it_is_streamed_is_refused(workspace):
    slices = fed(workspace, STREAMED)
    (shard,) = workspace.embeddings("tiny").folder.path.glob("features/*/0.*")
    flip(shard, 100)
    with pytest.raises(DamagedStore, match="does not match its checksum"):
        slices.features(range(6))


def test_labels_beside_streamed_features_take_little_memory(made):
    slices = fed(made, STREAMED)
    assert sum(map(len, slices._compressed)) < slices.labels(range(6)).numel() / 2


@pytest.mark.parametrize("memory_bytes", [IN_MEMORY, STREAMED])
def test_a_volume_without_a_label_is_refused(workspace, memory_bytes):
    image, _ = boxes(0)
    add_volume(workspace, "bare", image, None)
    with pytest.raises(InputError, match="bare has no label map"):
        fed(workspace, memory_bytes)


def test_a_volume_without_rows_is_refused_with_the_command(workspace):
    add_volume(workspace, "later", *boxes(7))
    with pytest.raises(MissingEmbeddings, match=r"3 of 9 slices of the drawn volumes .*samkit embed --recipe"):
        fed(workspace, IN_MEMORY)
