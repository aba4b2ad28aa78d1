"""Rows depend on their slice and nothing else, and what is not finite is never stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, compute_of, embed, workspace_of_boxes

from samkit.heads.base import MASK_DECODER_FILE, MaskDecoderWeights
from samkit.stages.embed import (
    ComputeClass,
    SliceFinder,
    choose_compute,
    embed_shard,
    load_recipe,
    prepare_embeddings,
)
from samkit.store.embeddings import ShardPlan
from samkit.store.errors import StoreError, UnusableVoxels, WeightsError
from samkit.store.keys import Recipe, RowKey

RECIPE = Recipe(encoder="fake", weights_sha256="0" * 64, input_px=32)


class FakeEncoder:
    """Answers with the mean of each slice, or with what a test gives it; counts the sizes of its batches."""

    embedding_shape = (4, 2, 2)
    trained = False
    mask_decoder = None
    kernel_paths = ("package",)

    def __init__(self, recipe=RECIPE, answer=None):
        self.recipe = recipe
        self.answer = answer
        self.batch_sizes = []

    def prepare(self, images):
        return images.float().mean(dim=(1, 2, 3), keepdim=True).expand(-1, 3, 32, 32)

    def encode(self, prepared, kernel_path=None):
        self.batch_sizes.append(len(prepared))
        features = prepared[:, :1, :2, :2].expand(-1, 4, 2, 2)
        return features.clone() if self.answer is None else torch.full_like(features, self.answer)

    def __call__(self, images):
        return self.encode(self.prepare(images))


@pytest.fixture
def workspace(tmp_path):
    return workspace_of_boxes(tmp_path / "workspace", subjects=2, slices=5)


@pytest.fixture(scope="module")
def tiny():
    return TINY.load(None)


def compute(micro_batch=4):
    return ComputeClass(device="cpu", kernel_path="package", threads=torch.get_num_threads(), micro_batch=micro_batch)


def embedded(workspace, encoder, keys, micro_batch=4):
    embeddings = prepare_embeddings(workspace, encoder, "cpu")
    plan = ShardPlan(recipe_id=encoder.recipe.id, keys=tuple(keys))
    return embed_shard(
        plan, SliceFinder(workspace.volumes), encoder, embeddings, compute=compute(micro_batch), writer="test"
    )


def keys_of(workspace):
    return [key for volume in workspace.volumes.values() for key in volume.row_keys()]


# Rows ------------------------------------------------------------------------------------------------------------


def test_each_row_is_that_of_its_own_slice(workspace):
    keys = keys_of(workspace)
    embedded(workspace, FakeEncoder(), keys)
    rows = workspace.embeddings("fake").read(keys)
    images = np.concatenate([np.asarray(volume.image) for volume in workspace.volumes.values()])
    np.testing.assert_allclose(rows[:, 0, 0, 0], images.astype(np.float32).mean(axis=(1, 2, 3)), atol=1e-3)


def test_rows_do_not_depend_on_how_many_rows_follow(tmp_path, tiny):
    rows = []
    for count in (1, 3, 4, 5, 10):
        workspace = workspace_of_boxes(tmp_path / str(count), subjects=2, slices=5)
        record = embedded(workspace, tiny, keys_of(workspace)[:count])
        rows.append(record.checksums[0])
    assert len(set(rows)) == 1


def test_every_batch_is_filled_up_to_the_same_size(workspace):
    encoder = FakeEncoder()
    embedded(workspace, encoder, keys_of(workspace)[:9])
    assert encoder.batch_sizes == [4, 4, 4]


def test_slices_of_different_shapes_share_a_batch(workspace):
    image, label = boxes(7, slices=1, side=25)
    add_volume(workspace, "small", image, label)
    record = embedded(workspace, FakeEncoder(), keys_of(workspace))
    assert len(record.keys) == 11


def test_features_read_back_are_those_of_the_encoder_in_storage_precision(workspace, tiny):
    embeddings = embed(workspace, tiny)
    micro_batch = compute_of(embeddings).micro_batch
    image = torch.from_numpy(np.asarray(workspace.volumes["subject0"].image))
    filled = torch.cat([image, image[-1:].expand(micro_batch - 5, -1, -1, -1)]) if micro_batch > 5 else image
    expected = tiny(filled)[:5].numpy().astype(np.float16)
    np.testing.assert_allclose(embeddings["subject0"], expected, atol=2e-3)


def test_a_record_says_what_it_cost_and_what_made_it(workspace):
    record = embedded(workspace, FakeEncoder(), keys_of(workspace))
    assert record.seconds >= 0
    assert record.peak_memory_bytes > 1_000_000
    assert record.code_version
    assert record.compute == compute().to_json()


# What is not finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_and_nothing_is_stored(workspace, answer):
    keys = keys_of(workspace)
    with pytest.raises(UnusableVoxels, match="not finite"):
        embedded(workspace, FakeEncoder(answer=answer), keys)
    embeddings = workspace.embeddings("fake")
    assert embeddings.journal.missing(keys) == keys
    assert (embeddings.folder / "features").files() == {}


def test_numbers_too_large_for_the_storage_precision_are_refused(workspace):
    with pytest.raises(UnusableVoxels, match="not finite in float16"):
        embedded(workspace, FakeEncoder(answer=70_000.0), keys_of(workspace))


def test_the_same_numbers_fit_into_float32(workspace):
    encoder = FakeEncoder(recipe=replace(RECIPE, storage_precision="float32"), answer=70_000.0)
    embedded(workspace, encoder, keys_of(workspace))
    assert (workspace.embeddings("fake")["subject0"] == 70_000.0).all()


def test_one_bad_slice_is_named(workspace):
    keys = keys_of(workspace)

    class OneBad(FakeEncoder):
        def encode(self, prepared, kernel_path=None):
            features = super().encode(prepared)
            if len(self.batch_sizes) == 2:
                features[1] = float("nan")
            return features

    with pytest.raises(UnusableVoxels, match=keys[5].slice_digest):
        embedded(workspace, OneBad(), keys)


# Around it -------------------------------------------------------------------------------------------------------


def test_a_slice_that_no_volume_holds_is_refused_with_what_to_type(workspace):
    with pytest.raises(StoreError, match="samkit embed"):
        SliceFinder(workspace.volumes).read(RowKey(slice_digest="0" * 32))


def test_the_compute_class_is_fixed_once(workspace, tiny):
    first = prepare_embeddings(workspace, tiny, "cpu").compute
    prepare_embeddings(workspace, tiny, "cuda:0")
    assert workspace.embeddings("tiny").compute == first


def test_the_mask_decoder_is_kept_beside_the_rows(workspace, tiny):
    kept = prepare_embeddings(workspace, tiny, "cpu").attachment(MASK_DECODER_FILE)
    back = MaskDecoderWeights.from_bytes(kept)
    assert back.decoder.keys() == tiny.mask_decoder.decoder.keys()
    assert not back.trained


@pytest.mark.parametrize("size", [16, 256, 1024, 4096])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_micro_batch_has_at_least_one_slice_and_bounded_pixels(size, device):
    chosen = choose_compute(FakeEncoder(recipe=replace(RECIPE, input_px=size)), device, 2)
    assert 1 <= chosen.micro_batch <= 64
    assert chosen.micro_batch == 1 or chosen.micro_batch * size**2 <= 8 * 1024**2


def test_a_compute_class_survives_json():
    assert ComputeClass.from_json(compute().to_json()) == compute()


def test_a_recipe_is_loaded_again_as_it_was():
    from samkit.stages.encoders.nano import NANO

    recipe = NANO.load(None, size=32, pixel_normalisation="sam-exact").recipe
    assert load_recipe(recipe, None, "cpu").recipe == recipe


def test_weights_of_another_digest_are_refused_with_both():
    from samkit.stages.encoders.nano import NANO

    recipe = NANO.load(None, size=32).recipe
    with pytest.raises(WeightsError, match=r"weights_sha256: 000000\.\. -> "):
        load_recipe(replace(recipe, weights_sha256="0" * 64), None, "cpu")
