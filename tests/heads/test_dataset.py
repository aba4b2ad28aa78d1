"""Embedded slices as a torch Dataset: what heads are fed, item by item, through any loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, embed, workspace_of_boxes
from torch.utils.data import DataLoader

from samkit.heads.dataset import EmbeddedSlices
from samkit.heads.feeding import LabelledSlices
from samkit.store.errors import InputError, MissingEmbeddings
from samkit.store.slices import Volume


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    workspace = workspace_of_boxes(tmp_path_factory.mktemp("dataset") / "workspace", subjects=2)
    return workspace, embed(workspace, TINY.load(None))


def dataset_of(embedded, **choices):
    workspace, embeddings = embedded
    return EmbeddedSlices(embeddings, workspace.volumes.values(), **choices)


def test_items_are_what_heads_are_fed(embedded):
    workspace, embeddings = embedded
    expected = list(LabelledSlices(embeddings, list(workspace.volumes.values()), 1 << 30).in_order(1))
    dataset = dataset_of(embedded)
    assert len(dataset) == len(expected) == 6
    for number, (features, labels) in enumerate(expected):
        assert torch.equal(dataset[number].features, features[0])
        assert torch.equal(dataset[number].label, labels[0].long())


def test_an_item_says_which_slice_it_is(embedded):
    _, embeddings = embedded
    for item in dataset_of(embedded):
        assert np.array_equal(item.features, embeddings[item.volume_id][item.position])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_makes_batches_of_it(embedded, workers):
    batches = list(DataLoader(dataset_of(embedded), batch_size=4, num_workers=workers))
    assert [tuple(batch.features.shape) for batch in batches] == [(4, 256, 4, 4), (2, 256, 4, 4)]
    assert batches[0].label.shape == (4, 16, 16)
    assert batches[0].volume_id[0] == "subject0"


def test_a_label_is_read_once_however_often_its_slices_are_asked_for(embedded, monkeypatch):
    read = []
    whole = Volume.read_label
    monkeypatch.setattr(Volume, "read_label", lambda volume: read.append(volume.id) or whole(volume))
    dataset = dataset_of(embedded)
    for number in (0, 3, 1, 4, 0, 3):
        _ = dataset[number]
    assert read == ["subject0", "subject1"]


def test_views_that_are_not_embedded_are_refused_with_the_command(embedded):
    with pytest.raises(MissingEmbeddings, match=r"samkit embed --views [^ ]+ --views-for all"):
        dataset_of(embedded, views=["identity", "flip-rows"])


def test_a_volume_without_a_label_is_refused(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=1)
    add_volume(workspace, "plain", boxes(9)[0], None)
    with pytest.raises(InputError, match="plain has no label map"):
        EmbeddedSlices(embed(workspace, TINY.load(None)), workspace.volumes.values())
