"""Heads are found by name, and what is loaded is what was kept, or a refusal."""

import pytest
import torch
from examples.runs import keep_head

from samkit.heads import base
from samkit.heads.base import (
    HeadContext,
    MaskDecoderWeights,
    asks_reference,
    find_head,
    head_bytes,
    head_names,
    head_words,
    load_head,
    register_head,
    seeded,
)
from samkit.heads.hybrid import Hybrid
from samkit.heads.linear import Linear
from samkit.store.errors import DamagedStore, UsageError


def small_linear(class_count=2):
    return Linear.build(HeadContext(input_shape=(16, 4, 4), class_count=class_count))


def test_the_heads_there_are_come_from_entry_points():
    assert {"autosam", "linear"} <= set(head_names())


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'autosam'"):
        find_head("autosma")


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(DamagedStore, match="not a finished run"):
        load_head(tmp_path)


def test_missing_weights_are_refused(tmp_path):
    folder = keep_head(tmp_path / "run", small_linear())
    (folder / "head.safetensors").unlink()
    with pytest.raises(DamagedStore, match=r"head\.safetensors"):
        load_head(folder)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_weights_that_were_cut_short_are_refused(tmp_path, length):
    folder = keep_head(tmp_path / "run", small_linear())
    whole = (folder / "head.safetensors").read_bytes()
    (folder / "head.safetensors").write_bytes(whole[:length])
    with pytest.raises(DamagedStore, match="not the weights that were kept"):
        load_head(folder)


def test_weights_of_another_head_are_refused(tmp_path):
    folder = keep_head(tmp_path / "run", small_linear(class_count=2))
    (folder / "head.safetensors").write_bytes(head_bytes(small_linear(class_count=5)))
    with pytest.raises(DamagedStore, match="not the weights that were kept"):
        load_head(folder)


@pytest.mark.parametrize("trained", [True, False])
def test_a_mask_decoder_survives_its_bytes(trained):
    weights = MaskDecoderWeights(
        decoder={"mask_tokens.weight": torch.randn(4, 8), "transformer.x": torch.randn(3).half()},
        position_matrix=torch.randn(2, 4),
        # Not contiguous: a column of a table.
        no_mask=torch.randn(8, 2)[:, 0],
        trained=trained,
    )
    back = MaskDecoderWeights.from_bytes(weights.to_bytes())
    assert back.trained is trained
    assert back.decoder.keys() == weights.decoder.keys()
    assert all(torch.equal(back.decoder[name], weights.decoder[name]) for name in weights.decoder)
    assert torch.equal(back.position_matrix, weights.position_matrix)
    assert torch.equal(back.no_mask, weights.no_mask)


def test_random_numbers_follow_the_seed_inside_the_block():
    with seeded(11):
        first = torch.rand(3)
    with seeded(11):
        assert torch.equal(torch.rand(3), first)


def test_random_numbers_outside_the_block_go_on_as_before():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(11):
        torch.rand(100)
    assert torch.equal(torch.rand(2), expected)


def test_a_flipped_bit_of_the_weights_is_damage_and_never_another_head(tmp_path):
    folder = keep_head(tmp_path / "run", small_linear())
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(bytes(data))
    with pytest.raises(DamagedStore, match="not the weights that were kept"):
        load_head(folder)


def test_a_head_whose_arguments_are_of_another_time_is_to_be_trained_again(tmp_path):
    head = Hybrid(channels=8, class_count=2)
    head.widths = (64, 32, 32)  # as the first `hybrid` had them
    folder = keep_head(tmp_path / "run", head)
    with pytest.raises(DamagedStore, match=r"of another head.*Train the run again"):
        load_head(folder)


# -- heads of one's own ----------------------------------------------------------------------------


def test_a_head_that_is_registered_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(base, "_REGISTERED", {})

    class Mine(Linear):
        name = "mine-for-a-test"

    assert register_head(Mine) is Mine
    assert find_head("mine-for-a-test") is Mine


def test_the_name_of_another_head_cannot_be_taken():
    class Imposter(Linear):
        name = "linear"

    with pytest.raises(UsageError, match="'linear' is taken"):
        register_head(Imposter)


def test_a_head_that_is_not_installed_here_is_told_by_its_name():
    assert head_words("of-a-script", {"gate": "fixed"}) == "of-a-script"
    assert not asks_reference("of-a-script", {"prompt": "point:1"})
