"""Encoders are found by name and loaded through one front door."""

import pytest
import torch
from examples.tiny_sam import checkpoint, package_sam

from samkit.stages.encoders.base import encoder_names, find_encoder, load_encoder, weights_named_by
from samkit.stages.encoders.nano import NANO
from samkit.store.errors import DeviceError, SamkitWarning, UsageError, WeightsError


def test_the_encoders_there_are_come_from_entry_points():
    assert {"nano", "sam_vit_b", "sam_vit_l", "sam_vit_h"} <= set(encoder_names())


@pytest.mark.parametrize("name", ["nano", "sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_an_encoder_is_found_under_the_name_it_has(name):
    assert find_encoder(name).name == name


def test_an_unknown_encoder_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'sam_vit_b'"):
        find_encoder("sam_vitb")


def test_an_unknown_encoder_is_told_of_those_of_the_hub_too():
    with pytest.raises(UsageError, match=r"There are: hf:FOLDER, nano, "):
        find_encoder("dinov2")


@pytest.mark.parametrize("name", ["hf:somebody/dinov2-small", "hf-dinov2-small"])
def test_an_encoder_of_the_hub_is_found_without_being_fetched(name):
    assert find_encoder(name).name == "hf-dinov2-small"


@pytest.mark.parametrize("name", ["nano", "sam_vit_b", "hf-dinov2-small"])
def test_most_names_say_nothing_of_where_weights_are(name):
    assert weights_named_by(name) is None


def test_numbers_from_a_seed_that_nobody_asked_for_are_said_to_be_so():
    with pytest.warns(SamkitWarning, match="its numbers come from a seed"):
        load_encoder("sam_vit_b", size=32)


def test_loading_by_name_is_loading_the_model_with_its_own_weights():
    loaded = load_encoder("nano", size=64)
    assert loaded.recipe == NANO.load(NANO.own_weights, size=64).recipe


def test_what_has_no_seed_is_not_loaded_from_its_folder_instead():
    with pytest.raises(UsageError, match="has no seed"):
        load_encoder("hf:somewhere/dinov2-small", "seeded")


def test_a_seed_may_be_asked_for_by_name():
    loaded = load_encoder("nano", "seeded", size=64)
    assert not loaded.trained
    assert loaded.recipe == NANO.load(None, size=64).recipe


def test_a_papers_rule_for_pixels_is_loaded_by_its_name():
    recipe = load_encoder("nano", size=64, pixel_normalisation="medsam").recipe
    assert (recipe.pixel_normalisation, recipe.resize) == ("medsam", "square")


def test_a_checkpoint_may_be_named_by_a_string(tmp_path):
    path = checkpoint(tmp_path, package_sam(NANO).state_dict())
    loaded = load_encoder("nano", str(path), 64)
    assert loaded.trained
    assert torch.isfinite(loaded(torch.rand(1, 1, 20, 30))).all()


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        load_encoder("nano", tmp_path / "nowhere.pth")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match="--device cpu"):
        load_encoder("nano", device="cuda")
