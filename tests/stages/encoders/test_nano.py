"""The embedded encoder keeps the contract, is seeded, and says so."""

import pytest
import torch
from contracts.encoder import EncoderContract

from samkit.stages.encoders.nano import NANO


class TestNano(EncoderContract):
    def load(self, **options):
        return NANO.load(None, **{"size": 64, **options})


@pytest.fixture(scope="module")
def nano():
    return NANO.load(None)


def test_its_own_size_is_256_pixels_and_16_cells(nano):
    assert nano.recipe.input_px == 256
    assert nano.embedding_shape == (256, 16, 16)


def test_it_says_that_it_is_untrained(nano):
    assert nano.trained is False
    assert nano.mask_decoder.trained is False


def test_it_has_a_mask_decoder_to_start_heads_from(nano):
    assert nano.mask_decoder.decoder["transformer.layers.0.mlp.lin1.weight"].shape == (448, 256)


def test_it_is_a_few_megabytes(nano):
    assert 2e6 < sum(parameter.numel() for parameter in nano.model.parameters()) < 6e6


def test_its_windows_tile_its_grid(nano):
    assert nano.embedding_shape[1] % NANO.window == 0


def test_its_untrained_features_still_tell_where_things_are(nano):
    # A seeded encoder whose cells all looked alike would make the demo meaningless.
    image = torch.zeros(1, 1, 256, 256)
    image[:, :, 64:128, 64:128] = 1
    difference = (nano(image) - nano(torch.zeros_like(image))).norm(dim=1)[0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert difference[inside].mean() > 3 * difference[~inside].mean()


def test_its_seed_is_one_set_of_weights_at_every_size(nano):
    small = NANO.load(None, size=64)
    assert small.recipe.weights_sha256 == nano.recipe.weights_sha256
    own, brought = nano.model.state_dict(), small.model.state_dict()
    positions = {name for name in own if own[name].shape != brought[name].shape}
    assert positions == {"pos_embed", *(f"blocks.{block}.attn.rel_pos_{axis}" for block in (2, 5) for axis in "hw")}
    assert all(own[name].equal(brought[name]) for name in own.keys() - positions)
