"""SimCLR's loss is the paper's, the pretraining changes the way down alone, and a U-Net begins from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contracts.head import SliceHeadContract
from examples.workspaces import LABEL_NAMES, add_volume

from samkit.heads.base import HeadContext, PretrainedWeights, head_bytes
from samkit.heads.patches import PatchPairs
from samkit.heads.recipes import ContrastOptions
from samkit.heads.simclr import SimClrUNet, contrastive_loss, pretrain
from samkit.store.errors import FitDiverged
from samkit.store.workspace import Workspace

CPU = torch.device("cpu")


class TestSimClrUNet(SliceHeadContract):
    head_class = SimClrUNet
    trained_parts = frozenset({"down", "up", "upscaling", "classifier"})


def built(pretrained=None, seed=0):
    return SimClrUNet.build(HeadContext(input_shape=(1, 32, 32), class_count=3, pretrained=pretrained, seed=seed))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Eight slices of waves, each of a length or a direction of its own: a patch tells which one it shows."""
    workspace = Workspace.create(tmp_path_factory.mktemp("pairs") / "workspace", LABEL_NAMES)
    for length in (3, 5, 9, 20):
        wave = np.tile(0.5 + 0.4 * np.sin(2 * np.pi * np.arange(40) / length), (40, 1))
        for name, image in (("stripes", wave), ("checks", (wave + wave.T) / 2)):
            add_volume(workspace, f"{name}{length}", image[None, None].astype(np.float16), None)
    return PatchPairs(list(workspace.volumes.values()))


def pretrained(pairs, *, steps=3, seed=0, batch_size=4, **options):
    head = built()
    chosen = ContrastOptions(steps=steps, batch_size=batch_size, **options)
    told = list(pretrain(head, pairs.batches(batch_size, seed, CPU), chosen, seed))
    return head, told


def test_the_loss_is_equation_1_of_the_paper():
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    similar = [[float(torch.cosine_similarity(one, other, dim=0)) / 0.5 for other in rows] for one in rows]
    expected = 0.0
    for i in range(6):
        others = sum(math.exp(similar[i][k]) for k in range(6) if k != i)
        expected -= math.log(math.exp(similar[i][(i + 3) % 6]) / others) / 6
    assert float(contrastive_loss(rows, 0.5)[0]) == pytest.approx(expected, rel=1e-6)


def test_partners_that_are_alike_are_found():
    rows = torch.eye(4)
    assert contrastive_loss(torch.cat([rows, rows]), 0.5)[1] == 1


def test_partners_that_are_unlike_are_not_found():
    rows = torch.eye(4)
    assert contrastive_loss(torch.cat([rows, rows.roll(1, 0)]), 0.5)[1] == 0


def test_only_the_way_down_is_changed(pairs):
    before = built().state_dict()
    after = pretrained(pairs)[0].state_dict()
    changed = {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {"down"}


def test_equal_seeds_learn_the_same(pairs):
    assert head_bytes(pretrained(pairs)[0]) == head_bytes(pretrained(pairs)[0])


def test_another_seed_learns_something_else(pairs):
    assert head_bytes(pretrained(pairs, seed=1)[0]) != head_bytes(pretrained(pairs)[0])


def test_which_patches_are_of_one_slice_is_learned(pairs):
    _, told = pretrained(pairs, steps=60, batch_size=8, learning_rate=3e-3)
    first, last = (sum(step.loss for step in part) / 10 for part in (told[:10], told[-10:]))
    assert last < first - 0.3


def test_a_loss_that_is_not_finite_is_told(pairs):
    head = built()
    with torch.no_grad():
        head.down[0][0].weight.fill_(math.nan)
    with pytest.raises(FitDiverged, match="contrastive loss is nan at step 1"):
        next(pretrain(head, pairs.batches(4, 0, CPU), ContrastOptions(steps=2, batch_size=4), 0))


def test_a_head_begins_from_what_was_learned_and_is_random_beyond(pairs):
    source = pretrained(pairs)[0]
    begun = built(PretrainedWeights(name="unet-simclr-1234", tensors=source.down.state_dict()), seed=5)
    assert all(torch.equal(a, b) for a, b in zip(begun.down.parameters(), source.down.parameters(), strict=True))
    assert not torch.equal(begun.classifier.weight, source.classifier.weight)
    assert begun.config["pretrained"] == "unet-simclr-1234"
