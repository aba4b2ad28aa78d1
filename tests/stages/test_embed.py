"""Rows depend on their slice and nothing else, and what is not finite is never stored."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, compute_of, embed, workspace_of_boxes

from samkit.heads.base import MASK_DECODER_FILE, MaskDecoderWeights
from samkit.stages.embed import (
    EmbedJob,
    ShardWorker,
    Timing,
    prepare_embeddings,
)
from samkit.stages.encoders.base import load_recipe
from samkit.stages.encoders.compute import ComputeClass
from samkit.store.embeddings import ShardPlan
from samkit.store.errors import DeviceError, StoreError, WeightsError
from samkit.store.keys import Recipe, RowKey
from samkit.store.slices import SliceFinder

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


def job_for(workspace, encoder, micro_batch=4):
    prepare_embeddings(workspace, encoder, "cpu")
    return EmbedJob(
        workspace=workspace.path,
        recipe=encoder.recipe,
        weights=None,
        device="cpu",
        compute=compute(micro_batch),
        writer="test",
    )


def embedded(workspace, encoder, keys, micro_batch=4):
    """Compute one shard of some keys as a worker does; what became of it."""
    worker = ShardWorker(job_for(workspace, encoder, micro_batch), encoder)
    return worker(ShardPlan(recipe_id=encoder.recipe.id, keys=tuple(keys)))


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
        record = embedded(workspace, tiny, keys_of(workspace)[:count]).record
        rows.append(record.checksums[0])
    assert len(set(rows)) == 1


def test_every_batch_is_filled_up_to_the_same_size(workspace):
    encoder = FakeEncoder()
    embedded(workspace, encoder, keys_of(workspace)[:9])
    assert encoder.batch_sizes == [4, 4, 4]


def test_slices_of_different_shapes_share_a_batch(workspace):
    image, label = boxes(7, slices=1, side=25)
    add_volume(workspace, "small", image, label)
    record = embedded(workspace, FakeEncoder(), keys_of(workspace)).record
    assert len(record.keys) == 11


def test_features_read_back_are_those_of_the_encoder_in_storage_precision(workspace, tiny):
    embeddings = embed(workspace, tiny)
    micro_batch = compute_of(embeddings).micro_batch
    image = torch.from_numpy(np.asarray(workspace.volumes["subject0"].image))
    filled = torch.cat([image, image[-1:].expand(micro_batch - 5, -1, -1, -1)]) if micro_batch > 5 else image
    expected = tiny(filled)[:5].numpy().astype(np.float16)
    np.testing.assert_allclose(embeddings["subject0"], expected, atol=2e-3)


def test_a_record_says_what_it_cost_and_what_made_it(workspace):
    record = embedded(workspace, FakeEncoder(), keys_of(workspace)).record
    assert record.seconds >= 0
    assert record.peak_memory_bytes > 1_000_000
    assert record.code_version
    assert record.compute == compute().to_json()


def test_steps_side_by_side_give_the_rows_of_steps_in_turn(tmp_path, tiny):
    checksums = []
    for name in ("in turn", "side by side"):
        workspace = workspace_of_boxes(tmp_path / name, subjects=2, slices=5)
        worker = ShardWorker(job_for(workspace, tiny), tiny)
        keys = keys_of(workspace)
        plans = [ShardPlan(recipe_id=tiny.recipe.id, keys=tuple(part)) for part in (keys[:5], keys[5:])]
        if name == "in turn":
            results = [worker(plan) for plan in plans]
        else:
            reading = [worker.read(plan) for plan in plans]  # both at once
            encoded = [worker.encode(plan, slices) for plan, slices in zip(plans, reading, strict=True)]
            results = [worker.write(one) for one in reversed(encoded)][::-1]
        checksums.append([result.record.checksums for result in results])
    assert checksums[0] == checksums[1]


def test_a_shard_that_somebody_has_finished_is_not_computed_again(workspace, tiny):
    keys = keys_of(workspace)
    first = embedded(workspace, tiny, keys)
    encoder = FakeEncoder(recipe=tiny.recipe)
    again = ShardWorker(job_for(workspace, tiny), encoder)(ShardPlan(recipe_id=tiny.recipe.id, keys=tuple(keys)))
    assert again.record == first.record
    assert encoder.batch_sizes == []


# What cannot be embedded -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_and_nothing_is_stored(workspace, answer):
    keys = keys_of(workspace)
    result = embedded(workspace, FakeEncoder(answer=answer), keys)
    assert result.record is None
    (failure,) = result.failures
    assert failure.rows == len(keys)
    assert "not finite" in failure.reason
    embeddings = workspace.embeddings("fake")
    assert embeddings.journal.missing(keys) == keys
    assert (embeddings.folder / "features").files() == {}


def test_numbers_too_large_for_the_storage_precision_are_refused(workspace):
    (failure,) = embedded(workspace, FakeEncoder(answer=70_000.0), keys_of(workspace)).failures
    assert "not finite in float16" in failure.reason


def test_the_same_numbers_fit_into_float32(workspace):
    encoder = FakeEncoder(recipe=replace(RECIPE, storage_precision="float32"), answer=70_000.0)
    embedded(workspace, encoder, keys_of(workspace))
    assert (workspace.embeddings("fake")["subject0"] == 70_000.0).all()


class OneBad(FakeEncoder):
    """Answers one slice, the sixth, with what is no number."""

    def encode(self, prepared, kernel_path=None):
        features = super().encode(prepared)
        if len(self.batch_sizes) == 2:
            features[1] = float("nan")
        return features


def test_one_bad_slice_is_named_and_costs_only_itself(workspace):
    keys = keys_of(workspace)
    result = embedded(workspace, OneBad(), keys)
    (failure,) = result.failures
    assert failure.rows == 1
    assert "for slice 0 of subject1;" in failure.reason
    assert workspace.embeddings("fake").journal.missing(keys) == [keys[5]]


def test_the_rows_beside_a_bad_slice_are_their_own(workspace):
    keys = keys_of(workspace)
    embedded(workspace, OneBad(), keys)
    good = [key for key in keys if key != keys[5]]
    means = [SliceFinder(workspace.volumes).read(key).astype(np.float32).mean() for key in good]
    np.testing.assert_allclose(workspace.embeddings("fake").read(good)[:, 0, 0, 0], means, atol=1e-3)


def test_many_bad_slices_are_counted_not_listed(workspace):
    (failure,) = embedded(workspace, FakeEncoder(answer=float("nan")), keys_of(workspace)).failures
    assert "slice 0 of subject0, slice 1 of subject0, slice 2 of subject0 and 7 more" in failure.reason


def test_a_slice_whose_pixels_are_damaged_costs_only_its_volume(workspace):
    spoil(workspace, "subject0")
    keys = keys_of(workspace)
    result = embedded(workspace, FakeEncoder(), keys)
    assert sum(failure.rows for failure in result.failures) == 5
    assert workspace.embeddings("fake").journal.missing(keys) == keys[:5]


def spoil(workspace, volume_id):
    """Change a byte of a volume's pixels on the disk."""
    folder = workspace.path.path / workspace.volumes[volume_id].record.pixels / "image"
    (file,) = (path for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))


# Memory ----------------------------------------------------------------------------------------------------------


class Hungry(FakeEncoder):
    """Has memory for so many slices at once."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def encode(self, prepared, kernel_path=None):
        if len(prepared) > self.room:
            torch.empty(1 << 60, dtype=torch.uint8)  # what torch raises is the real thing
        return super().encode(prepared)


def test_where_memory_runs_out_half_as_many_slices_are_encoded_at_once(workspace):
    encoder = Hungry(room=3)
    record = embedded(workspace, encoder, keys_of(workspace), micro_batch=8).record
    assert set(encoder.batch_sizes) == {2}
    assert len(record.keys) == 10


def test_the_record_says_how_many_slices_were_encoded_at_once(workspace):
    record = embedded(workspace, Hungry(room=3), keys_of(workspace), micro_batch=8).record
    assert record.compute["micro_batch"] == 2


def test_later_shards_begin_with_what_fitted(workspace):
    encoder = Hungry(room=2)
    worker = ShardWorker(job_for(workspace, encoder, 8), encoder)
    keys = keys_of(workspace)
    for part in (keys[:5], keys[5:]):
        worker(ShardPlan(recipe_id=encoder.recipe.id, keys=tuple(part)))
    assert encoder.batch_sizes == [2, 2, 2] * 2


def test_rows_are_right_after_memory_ran_out(workspace):
    keys = keys_of(workspace)
    embedded(workspace, Hungry(room=1), keys, micro_batch=8)
    means = [SliceFinder(workspace.volumes).read(key).astype(np.float32).mean() for key in keys]
    np.testing.assert_allclose(workspace.embeddings("fake").read(keys)[:, 0, 0, 0], means, atol=1e-3)


def test_memory_that_does_not_hold_one_slice_ends_the_run_with_a_way_out(workspace):
    with pytest.raises(DeviceError, match=r"does not hold one slice.*--size 16"):
        embedded(workspace, Hungry(room=0), keys_of(workspace))


def test_another_error_of_the_encoder_is_not_taken_for_want_of_memory(workspace):
    class Broken(FakeEncoder):
        def encode(self, prepared, kernel_path=None):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        embedded(workspace, Broken(), keys_of(workspace))


# Time ------------------------------------------------------------------------------------------------------------


def test_the_encoders_time_is_told_apart_from_what_it_waited_for(workspace):
    timing = embedded(workspace, Slow(), keys_of(workspace), micro_batch=10).timing
    assert timing.encoding >= 0.2
    assert timing.reading < 0.2


class Slow(FakeEncoder):
    def encode(self, prepared, kernel_path=None):
        time.sleep(0.2)
        return super().encode(prepared)


def test_times_of_shards_add_up():
    total = Timing(encoding=1, reading=2, between=3) + Timing(encoding=10, reading=20, between=30)
    assert total == Timing(encoding=11, reading=22, between=33)


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


def test_a_recipe_is_loaded_again_as_it_was():
    from samkit.stages.encoders.nano import NANO

    recipe = NANO.load(None, size=32, pixel_normalisation="sam-exact").recipe
    assert load_recipe(recipe, None, "cpu").recipe == recipe


def test_weights_of_another_digest_are_refused_with_both():
    from samkit.stages.encoders.nano import NANO

    recipe = NANO.load(None, size=32).recipe
    with pytest.raises(WeightsError, match=r"weights_sha256: 000000\.\. -> "):
        load_recipe(replace(recipe, weights_sha256="0" * 64), None, "cpu")
