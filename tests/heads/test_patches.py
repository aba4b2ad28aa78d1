"""Patches show slices at their own resolution, image and label moved alike; what lies beside a slice says nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from examples.workspaces import LABEL_NAMES, add_volume, boxes, workspace_of_boxes
from scipy import ndimage

from samkit.heads.losses import IGNORED
from samkit.heads.patches import PLAIN, Augmentation, LabelledPatches, PatchPairs
from samkit.heads.views import TURNS, View
from samkit.store.errors import InputError
from samkit.store.workspace import Workspace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    workspace = workspace_of_boxes(tmp_path_factory.mktemp("patches") / "workspace", subjects=2)
    return list(workspace.volumes.values())


def drawn(volumes, augmentation=None, *, batches=1, batch_size=6, seed=0):
    endless = LabelledPatches(volumes, augmentation).batches(batch_size, seed, CPU)
    return [next(endless) for _ in range(batches)]


def test_a_patch_holds_most_slices_whole(volumes):
    assert LabelledPatches(volumes).input_shape == (1, 48, 48)


def test_a_patch_is_never_larger_than_256_pixels(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    add_volume(workspace, "large", *boxes(0, slices=1, side=500))
    assert LabelledPatches(list(workspace.volumes.values())).input_shape == (1, 256, 256)


def test_batches_have_what_the_loss_takes(volumes):
    ((images, labels),) = drawn(volumes)
    assert (images.shape, images.dtype) == ((6, 1, 48, 48), torch.float32)
    assert (labels.shape, labels.dtype) == ((6, 48, 48), torch.int64)
    assert set(labels.unique().tolist()) <= {0, 1, 2, IGNORED}


def test_images_stay_between_0_and_1(volumes):
    for images, _ in drawn(volumes, batches=20):
        assert images.min() >= 0
        assert images.max() <= 1


def test_every_slice_comes_once_before_any_comes_again(tmp_path):
    # Each slice has a grey value of its own.
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    _, label = boxes(0, slices=6)
    image = np.broadcast_to(np.linspace(0.1, 0.9, 6)[:, None, None, None], (6, 1, 40, 40)).astype(np.float16)
    add_volume(workspace, "steps", image.copy(), label)
    endless = LabelledPatches(list(workspace.volumes.values()), PLAIN).batches(2, 0, CPU)
    for _ in range(3):
        seen = torch.cat([next(endless)[0] for _ in range(3)]).amax(dim=(1, 2, 3))
        torch.testing.assert_close(seen.sort().values, torch.linspace(0.1, 0.9, 6), atol=1e-3, rtol=0)


def test_without_changes_a_patch_is_the_slice_moved_by_whole_pixels(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    image, label = boxes(0, slices=1, side=40)
    image[:] = np.random.default_rng(0).random(image.shape)  # of which no two neighbours are alike
    add_volume(workspace, "noise", image, label)
    patches = LabelledPatches(list(workspace.volumes.values()), PLAIN)
    whole, labels = next(patches.in_order(1))
    seen, its_labels = next(patches.batches(1, 0, CPU))
    rows, columns = (torch.nonzero((its_labels[0] != IGNORED).any(dim=axis))[:, 0] for axis in (1, 0))
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    crops = [
        (whole[0, 0, row : row + len(rows), column : column + len(columns)], labels[0, row:, column:])
        for row in range(41 - len(rows))
        for column in range(41 - len(columns))
    ]
    (matching,) = (there for crop, there in crops if torch.allclose(crop, seen[0, 0][cut], atol=1e-6))
    assert torch.equal(matching[: len(rows), : len(columns)].long(), its_labels[0][cut])


@pytest.mark.parametrize("seed", range(5))
def test_image_and_label_are_moved_alike(volumes, seed):
    # The box (class 1) is bright and the bar (class 2) dark, wherever they were turned to.
    moved = replace(PLAIN, turn_degrees=30, zoom=(0.7, 1.4), flip=0.5)
    for images, labels in drawn(volumes, moved, batches=3, seed=seed):
        for image, label in zip(images[:, 0], labels, strict=True):
            values = [image[label == number].median() for number in (2, 0, 1) if (label == number).sum() > 40]
            assert values == sorted(values)


def test_what_lies_beside_the_slice_is_ignored_and_dark(volumes):
    for images, labels in drawn(volumes, replace(PLAIN, zoom=(0.5, 0.5)), batches=3):
        beside = labels == IGNORED
        assert 0.5 < beside.float().mean() < 0.9
        assert images[:, 0][beside].mean() < 0.05


def test_zooming_in_makes_things_larger(volumes):
    small, large = (
        np.mean([(labels == 1).float().mean() for _, labels in drawn(volumes, replace(PLAIN, zoom=zoom), batches=5)])
        for zoom in ((0.7, 0.7), (1.4, 1.4))
    )
    assert large == pytest.approx(4 * small, rel=0.4)


def test_what_is_not_to_be_moved_stays_as_it_is(volumes):
    still = replace(PLAIN, turn_degrees=30, zoom=(0.7, 1.4), moved=0)
    for (plain, _), (image, _) in zip(drawn(volumes, PLAIN, batches=3), drawn(volumes, still, batches=3), strict=True):
        assert torch.equal(plain, image)


@pytest.mark.parametrize(
    "view", [*TURNS, "rotate+30-bilinear", "rotate90:rotate-45-bilinear", "zoom0.90-bilinear", "gamma0.70"]
)
def test_a_patch_is_of_the_slice_in_a_view(tmp_path, view):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    image, label = boxes(0, slices=1, side=48)
    random = np.random.default_rng(0)
    image[:] = ndimage.gaussian_filter(random.random(image.shape), (0, 0, 3, 3))  # so that where it is read shows
    label[:] = 0
    label[:, 5:20, 30:44] = 1
    add_volume(workspace, "smooth", image, label)
    patches = LabelledPatches(list(workspace.volumes.values()), replace(PLAIN, moved=0), views=[view])
    # Some are around the organ; those whose middle is the slice's show it whole.
    drawn = islice(patches.batches(1, 0, CPU), 20)
    whole = [(seen[0].numpy(), marks[0].numpy()) for seen, marks in drawn if (marks[:, 8:-8, 8:-8] != IGNORED).all()]
    assert whole
    wanted = View.parse(view).apply_to_image(image[0].astype(np.float32))
    labels = View.parse(view).apply_to_label(label[0])
    inside = np.s_[..., 8:-8, 8:-8] if "bilinear" in view else np.s_[...]  # beside a rotation there is nothing
    for seen, marks in whole:
        np.testing.assert_allclose(seen[inside], wanted[inside], atol=2e-3)
        assert np.mean(marks[inside] == labels[inside]) > 0.99


def test_each_of_the_views_is_drawn(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    image, label = boxes(0, slices=1, side=48)
    add_volume(workspace, "one", image, label)
    turns = ["identity", "rotate90", "rotate180", "rotate270"]
    patches = LabelledPatches(list(workspace.volumes.values()), replace(PLAIN, moved=0), views=turns)
    drawn = [seen[0].numpy() for seen, _ in islice(patches.batches(1, 0, CPU), 60)]
    shown = {
        turn
        for turn in turns
        for wanted in [View.parse(turn).apply_to_image(image[0].astype(np.float32))]
        if any(np.allclose(one, wanted, atol=2e-3) for one in drawn)
    }
    assert shown == {*turns}


def test_nothing_is_mirrored_unless_it_is_asked_for():
    assert Augmentation().flip == 0


def test_equal_seeds_give_equal_patches(volumes):
    for (image, label), (again, label_again) in zip(drawn(volumes, batches=3), drawn(volumes, batches=3), strict=True):
        assert torch.equal(image, again)
        assert torch.equal(label, label_again)


def test_another_seed_gives_other_patches(volumes):
    assert not torch.equal(drawn(volumes, seed=0)[0][0], drawn(volumes, seed=1)[0][0])


@pytest.mark.parametrize(
    "change",
    [
        {"turn_degrees": 30.0},
        {"zoom": (0.7, 1.4)},
        {"flip": 1.0},
        {"moved": 1.0, "turn_degrees": 10.0, "zoom": (0.9, 1.1)},
        {"brightness": 0.2},
        {"contrast": 0.5},
        {"chance": 1.0, "noise": 0.1},
        {"chance": 1.0, "gamma": 2.0},
        {"chance": 1.0, "coarsest": 0.3},
    ],
    ids=lambda change: list(change)[-1],
)
def test_each_change_changes_the_image(volumes, change):
    # Of equal chances, so that the same random numbers choose the places.
    same_places = replace(PLAIN, chance=change.get("chance", 0))
    ((plain, _),), ((changed, _),) = drawn(volumes, same_places), drawn(volumes, replace(PLAIN, **change))
    assert not torch.allclose(plain, changed, atol=1e-3)


@pytest.mark.parametrize("change", [{"brightness": 0.2}, {"contrast": 0.5}])
def test_changes_of_grey_values_leave_the_organs_where_they_are(volumes, change):
    patches = drawn(volumes, replace(PLAIN, **change), batches=2)
    for (_, plain), (_, changed) in zip(drawn(volumes, PLAIN, batches=2), patches, strict=True):
        assert torch.equal(plain, changed)


def test_slices_of_several_sizes_are_taken(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    for number, side in enumerate((40, 60, 30)):
        add_volume(workspace, f"v{number}", *boxes(number, side=side))
    patches = LabelledPatches(list(workspace.volumes.values()), Augmentation())
    assert next(patches.batches(9, 0, CPU))[0].shape == (9, 1, 64, 64)
    assert [tuple(images.shape) for images, _ in patches.in_order(2)] == [
        (2, 1, 40, 40),
        (1, 1, 40, 40),
        (2, 1, 60, 60),
        (1, 1, 60, 60),
        (2, 1, 30, 30),
        (1, 1, 30, 30),
    ]


def test_a_volume_without_a_label_is_refused(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    add_volume(workspace, "bare", boxes(0)[0], None)
    with pytest.raises(InputError, match="bare has no label map to train on"):
        LabelledPatches(list(workspace.volumes.values()))


def test_grey_and_colour_volumes_do_not_mix(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    image, label = boxes(0)
    add_volume(workspace, "grey", image, label)
    add_volume(workspace, "colour", image.repeat(3, axis=1) * np.float16(0.9), label)
    with pytest.raises(InputError, match=r"1 \(as grey\) and 3 \(as colour\) channels"):
        LabelledPatches(list(workspace.volumes.values()))


# -- pairs, without labels -------------------------------------------------------------------------


def test_both_patches_of_a_pair_show_the_same_slice(volumes):
    pairs = PatchPairs(volumes, PLAIN)
    one, other = next(pairs.batches(6, 0, CPU))
    torch.testing.assert_close(one.sum((1, 2, 3)), other.sum((1, 2, 3)))  # moved by whole pixels alone
    assert len({round(float(total), 2) for total in one.sum((1, 2, 3))}) == 6


def test_the_patches_of_a_pair_are_changed_each_by_itself(volumes):
    one, other = next(PatchPairs(volumes).batches(4, 0, CPU))
    assert one.shape == other.shape == (4, 1, 48, 48)
    assert not torch.equal(one, other)


def test_every_slice_is_paired_once_before_any_again(volumes):
    pairs = PatchPairs(volumes, PLAIN)
    endless = pairs.batches(2, 0, CPU)
    seen = torch.cat([next(endless)[0] for _ in range(len(pairs) // 2)])
    assert len({round(float(total), 2) for total in seen.sum((1, 2, 3))}) == len(pairs)


def test_slices_that_are_read_in_every_batch_give_bitwise_the_pairs_of_those_in_memory(volumes):
    size = sum(volume.read_slices(0, volume.record.shape[0]).nbytes for volume in volumes)
    kept, streamed = (PatchPairs(volumes, memory_bytes=least) for least in (size, size - 1))
    assert (kept.streamed, streamed.streamed) == (False, True)
    batches = [pairs.batches(4, 0, CPU) for pairs in (kept, streamed)]
    for _ in range(3):
        for mine, other in zip(*(next(endless) for endless in batches), strict=True):
            assert torch.equal(mine, other)


def test_a_batch_is_all_slices_where_there_are_fewer(volumes):
    pairs = PatchPairs(volumes)
    assert len(next(pairs.batches(1000, 0, CPU))[0]) == len(pairs)
