"""The embedded encoder keeps the contract, with the weights that come with samkit and with numbers from a seed."""

import pytest
import torch
from contracts.encoder import EncoderContract
from safetensors.torch import load_file

from samkit.heads.prompting import Prompts
from samkit.stages.encoders.digests import file_sha256
from samkit.stages.encoders.nano import NANO


class TestNano(EncoderContract):
    def load(self, **options):
        return NANO.load(NANO.own_weights, **{"size": 64, **options})


class TestNanoFromASeed(EncoderContract):
    def load(self, **options):
        return NANO.load(None, **{"size": 64, **options})


@pytest.fixture(scope="module")
def nano():
    return NANO.load(NANO.own_weights)


@pytest.fixture(scope="module")
def seeded():
    return NANO.load(None)


@pytest.fixture(scope="module")
def own_tensors():
    return load_file(NANO.own_weights)


# -- the weights that come with it -----------------------------------------------------------------


def test_its_own_weights_are_trained(nano):
    assert nano.trained
    assert nano.mask_decoder.trained


def test_its_own_weights_are_at_most_12_megabytes(own_tensors):
    assert NANO.own_weights.stat().st_size <= 12e6


def test_its_own_weights_are_all_of_a_sam_in_float16(own_tensors):
    expected = {f"{part}.{name}" for part, module in NANO.parts(256).items() for name in module.state_dict()}
    assert own_tensors.keys() == expected
    assert {tensor.dtype for tensor in own_tensors.values()} == {torch.float16}


def test_its_card_names_the_file_by_its_digest():
    card = NANO.own_weights.with_suffix(".md").read_text()
    assert file_sha256(NANO.own_weights) in card


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param(Prompts.of_boxes(torch.tensor([[96.0, 76.0, 184.0, 164.0]])), id="box"),
        pytest.param(Prompts.of_points(torch.tensor([[[140.0, 120.0]]]), torch.ones(1, 1)), id="click"),
    ],
)
def test_a_prompt_on_a_disc_means_the_disc(nano, prompts):
    # Measured: 0.98 by the box and 0.92 by the click.
    row, column = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    disc = (row - 120).square() + (column - 140).square() <= 40**2
    image = 0.25 + 0.4 * disc.float() + 0.02 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    decoder = NANO.prompted_decoder(NANO.own_weights)
    with torch.inference_mode():
        logits, _ = decoder(nano(image[None, None]), prompts)
    found = torch.nn.functional.interpolate(logits[:, :1], 256, mode="bilinear")[0, 0] > 0
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.85


# -- the architecture ------------------------------------------------------------------------------


def test_its_own_size_is_256_pixels_and_16_cells(nano):
    assert nano.recipe.input_px == 256
    assert nano.embedding_shape == (256, 16, 16)


def test_it_has_a_mask_decoder_to_start_heads_from(nano):
    assert nano.mask_decoder.decoder["transformer.layers.0.mlp.lin1.weight"].shape == (448, 256)


def test_it_is_a_few_megabytes(nano):
    assert 2e6 < sum(parameter.numel() for parameter in nano.model.parameters()) < 6e6


def test_its_windows_tile_its_grid(nano):
    assert nano.embedding_shape[1] % NANO.window == 0


@pytest.mark.parametrize("weights", [None, NANO.own_weights], ids=["seeded", "own"])
def test_its_features_tell_where_things_are(weights):
    nano = NANO.load(weights)
    image = torch.zeros(1, 1, 256, 256)
    image[:, :, 64:128, 64:128] = 1
    difference = (nano(image) - nano(torch.zeros_like(image))).norm(dim=1)[0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert difference[inside].mean() > 3 * difference[~inside].mean()


def test_a_seed_says_that_it_is_no_training(seeded):
    assert not seeded.trained
    assert not seeded.mask_decoder.trained


def test_its_seed_is_one_set_of_weights_at_every_size(seeded):
    small = NANO.load(None, size=64)
    assert small.recipe.weights_sha256 == seeded.recipe.weights_sha256
    own, brought = seeded.model.state_dict(), small.model.state_dict()
    positions = {name for name in own if own[name].shape != brought[name].shape}
    assert positions == {"pos_embed", *(f"blocks.{block}.attn.rel_pos_{axis}" for block in (2, 5) for axis in "hw")}
    assert all(own[name].equal(brought[name]) for name in own.keys() - positions)
