"""What a head is fed is what the store holds, in memory or streamed, and verified either way."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from examples.edits import flip
from examples.tiles import DISKS, disks, embed_tiles, workspace_of_disks
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, embed, embed_rows, workspace_of_boxes

from samkit.heads.feeding import LabelledSlices, StoredFeatures, check_embedded, frame_of, tiling_of
from samkit.heads.frame import Frame
from samkit.heads.losses import IGNORED
from samkit.heads.tiling import Tiling, row_keys
from samkit.heads.views import BANKS, View, image_of
from samkit.store.arrays import array_files
from samkit.store.errors import DamagedStore, InputError, MissingEmbeddings
from samkit.store.slices import SliceFinder
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


# Tiles -----------------------------------------------------------------------------------------------------------

TILING = Tiling(input_px=64)
# Cut along both sides, along one, and not at all.
SIZES = ((130, 100), (40, 90), (50, 60))


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Planes of three sizes and the rows of their tiles. Not to be changed."""
    workspace = workspace_of_disks(tmp_path_factory.mktemp("tiles") / "workspace", *SIZES)
    embed_tiles(workspace, TINY.load(None), TILING)
    return workspace


def fed_tiles(workspace: Workspace, memory_bytes: int = IN_MEMORY) -> LabelledSlices:
    return LabelledSlices(workspace.embeddings("tiny"), list(workspace.volumes.values()), memory_bytes, TILING)


def test_every_tile_is_fed_once(tiled):
    assert len(fed_tiles(tiled)) == 3 * 2 + 1 * 2 + 1


def test_the_features_of_a_tile_are_the_encoders_answer_to_its_pixels(tiled):
    slices, encoder = fed_tiles(tiled), TINY.load(None)
    image = disks(0, *SIZES[0])[0]
    corner = encoder(torch.from_numpy(np.ascontiguousarray(image[..., 66:130, 36:100])))
    torch.testing.assert_close(slices.features([5]).float(), corner, rtol=1e-3, atol=1e-3)


def test_the_label_of_a_tile_is_its_part_of_the_label_at_full_resolution(tiled):
    slices = fed_tiles(tiled)
    # Four pixels a cell: its centre lies between two, of which even cells take the first and odd cells the second.
    lines = np.array([4 * cell + 1 + cell % 2 for cell in range(16)])
    label = np.searchsorted([0, *DISKS], disks(0, *SIZES[0])[1][0])
    starts = [(row, column) for row in (0, 33, 66) for column in (0, 36)]
    for number, (row, column) in enumerate(starts):
        expected = label[row + lines[:, None], column + lines]
        np.testing.assert_array_equal(slices.labels([number])[0], expected)
    assert len(np.unique(slices.labels(range(6)))) == 3


def test_below_a_tile_of_a_low_plane_there_is_nothing_to_learn(tiled):
    label = fed_tiles(tiled).labels([6, 7])
    assert (label[:, 10:] == IGNORED).all()
    assert (label[:, :10] != IGNORED).all()


def test_a_plane_that_fits_is_fed_as_without_tiles(tiled):
    small = [tiled.volumes["subject2"]]
    (with_tiles, without) = (LabelledSlices(tiled.embeddings("tiny"), small, IN_MEMORY, how) for how in (TILING, None))
    assert torch.equal(with_tiles.features([0]), without.features([0]))
    assert torch.equal(with_tiles.labels([0]), without.labels([0]))


def test_streamed_tiles_are_those_in_memory(tiled):
    kept, streamed = fed_tiles(tiled), fed_tiles(tiled, STREAMED)
    assert (kept.streamed, streamed.streamed) == (False, True)
    assert torch.equal(streamed.features(range(9)), kept.features(range(9)))
    assert torch.equal(streamed.labels(range(9)), kept.labels(range(9)))


def test_features_that_are_read_when_they_are_asked_for_are_those_of_the_store(tiled):
    embeddings = tiled.embeddings("tiny")
    keys = row_keys(tiled.volumes["subject0"], TILING)
    features = StoredFeatures(embeddings, keys)
    assert len(features) == 6
    np.testing.assert_array_equal(features[1:3], embeddings.read(keys)[1:3])


def test_the_frame_of_a_volume_knows_how_the_recipe_resizes(tiled):
    volume, embeddings = tiled.volumes["subject1"], tiled.embeddings("tiny")
    assert frame_of(volume, embeddings) == Frame(rows=40, columns=90, input_px=64, resize="longest-side")


@pytest.mark.parametrize(("overlap", "tiling"), [(None, None), (0.25, TILING)])
def test_tiles_are_as_large_as_the_input_of_the_recipe(tiled, overlap, tiling):
    assert tiling_of(tiled.embeddings("tiny"), overlap) == tiling


def check(workspace, tiling, volumes=None):
    chosen = list(workspace.volumes.values()) if volumes is None else volumes
    check_embedded(workspace.embeddings("tiny"), chosen, what="drawn", tiling=tiling)


def test_tiles_without_rows_are_refused_with_the_command(tmp_path):
    workspace = workspace_of_disks(tmp_path / "workspace", *SIZES)
    recipe = embed_tiles(workspace, TINY.load(None), TILING).recipe.id
    add_volume(workspace, "later", *disks(9, 90, 90))
    with pytest.raises(
        MissingEmbeddings, match=rf"4 of 13 slices and tiles .*Run `samkit embed --tiles --recipe {recipe}`\.$"
    ):
        check(workspace, TILING)


@pytest.mark.parametrize(
    ("embedded", "asked", "told"),
    [
        (None, TILING, r"`samkit embed --tiles --recipe \w+`; or leave --tiles out: some are embedded whole\.$"),
        (TILING, None, r"`samkit embed --recipe \w+`; or add --tiles: some are embedded in tiles\.$"),
        (Tiling(input_px=64, overlap=0.5), TILING, r"embed --tiles --recipe \w+`; or name their --tile-overlap\.$"),
        (TILING, Tiling(input_px=64, overlap=0.5), r"embed --tiles --tile-overlap 0.5 --recipe \w+`; or name their"),
    ],
)
def test_rows_of_another_cut_are_told_of(tmp_path, embedded, asked, told):
    workspace = workspace_of_disks(tmp_path / "workspace", (200, 100), (50, 60))
    embed_tiles(workspace, TINY.load(None), embedded)
    with pytest.raises(MissingEmbeddings, match=told):
        check(workspace, asked)


def test_some_tiles_of_a_slice_are_not_taken_for_those_of_another_cut(tmp_path):
    workspace = workspace_of_disks(tmp_path / "workspace", SIZES[0])
    embed_tiles(workspace, TINY.load(None), TILING, rows=4)
    with pytest.raises(MissingEmbeddings, match=r"2 of 6 slices and tiles .*`samkit embed --tiles --recipe \w+`\.$"):
        check(workspace, TILING)


def test_rows_of_other_views_are_no_rows_of_tiles(tmp_path):
    workspace = workspace_of_disks(tmp_path / "workspace", SIZES[0])
    embed_tiles(workspace, TINY.load(None), None, view="transpose")
    with pytest.raises(MissingEmbeddings, match=r"`samkit embed --tiles --recipe \w+`\.$"):
        check(workspace, TILING)


# -- views -------------------------------------------------------------------------------------------------------------

VIEWS = ("identity", "transpose", "rotate+30-bilinear", "gamma0.50")


@pytest.fixture(scope="module")
def made_in_views(tmp_path_factory):
    """As `made`, with an oblong volume, in a bank of views. Not to be changed."""
    workspace = workspace_of_boxes(tmp_path_factory.mktemp("views") / "workspace", subjects=1)
    image, label = boxes(7)
    add_volume(workspace, "oblong", image[..., :24], label[..., :24])
    keys = [key for volume in workspace.volumes.values() for view in VIEWS for key in row_keys(volume, view=view)]
    embed_rows(workspace, TINY.load(None), keys)
    return workspace


def fed_views(workspace: Workspace, memory_bytes: int = IN_MEMORY, views=VIEWS) -> LabelledSlices:
    volumes = list(workspace.volumes.values())
    return LabelledSlices(workspace.embeddings("tiny"), volumes, memory_bytes, views=views)


def test_every_slice_has_a_row_in_every_view(made_in_views):
    assert len(fed_views(made_in_views)) == 2 * 3 * len(VIEWS)


def test_a_view_brings_its_features(made_in_views):
    slices, encoder = fed_views(made_in_views), TINY.load(None)
    found = SliceFinder(made_in_views.volumes)
    keys = [key for volume in made_in_views.volumes.values() for view in VIEWS for key in row_keys(volume, view=view)]
    for number, key in enumerate(keys):
        image = torch.from_numpy(image_of(found, key).astype(np.float32))[None]
        torch.testing.assert_close(slices.features([number])[0].float(), encoder(image)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("memory_bytes", [IN_MEMORY, STREAMED])
def test_a_view_moves_the_label_as_it_moves_the_image(made_in_views, memory_bytes):
    slices = fed_views(made_in_views, memory_bytes)
    number = 0
    for volume in made_in_views.volumes.values():
        label = volume.read_label()
        for text in VIEWS:
            moved = View.parse(text).apply_to_label(label)
            frame = Frame(rows=moved.shape[1], columns=moved.shape[2], input_px=TINY.default_px)
            index = np.searchsorted([0, 3, 42], moved).astype(np.uint8)
            expected = torch.from_numpy(frame.label_to_grid(index, slices.labels([0]).shape[-1]))
            assert torch.equal(slices.labels(range(number, number + 3)), expected)
            number += 3


def test_a_gamma_leaves_the_label_and_a_transpose_does_not(made_in_views):
    labels = fed_views(made_in_views).labels(range(12)).unflatten(0, (4, 3))
    assert torch.equal(labels[3], labels[0])
    assert not torch.equal(labels[1], labels[0])


def test_views_that_are_not_embedded_are_refused_with_the_command(made):
    with pytest.raises(MissingEmbeddings, match=r"24 of 30 slices and views .* `samkit embed --views reflections "):
        fed_views(made, views=[str(view) for view in BANKS["reflections"]])
