"""SAM through samkit is SAM: bitwise the package's own forward, and at other sizes SAMed's rule for positions."""

import numpy as np
import pytest
import torch
from contracts.encoder import EncoderContract
from examples.tiny_sam import TINY, checkpoint, package_sam, tensors
from scipy.ndimage import map_coordinates

from samkit.heads.sam_modules import ResizeLongestSide
from samkit.stages.encoders.sam import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L
from samkit.store.errors import WeightsError

# Width, depth, heads and global blocks of segment_anything/build_sam.py, written down a second time.
PUBLISHED = {
    SAM_VIT_B: (768, 12, 12, (2, 5, 8, 11)),
    SAM_VIT_L: (1024, 24, 16, (5, 11, 17, 23)),
    SAM_VIT_H: (1280, 32, 16, (7, 15, 23, 31)),
}
ALL_SIZES = pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("weights"), tensors())


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 50, 64, generator=torch.Generator().manual_seed(0))


class TestSamFromACheckpoint(EncoderContract):
    @pytest.fixture(autouse=True)
    def own_file(self, file):
        self.file = file

    def load(self, **options):
        return TINY.load(self.file, **options)


class TestSeededSam(EncoderContract):
    def load(self, **options):
        return TINY.load(None, **options)


# The package's own forward ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sam", "sam-exact"])
def test_embeddings_are_bitwise_those_of_the_packages_image_encoder(file, images, rule):
    encoder = TINY.load(file, pixel_normalisation=rule)
    with torch.no_grad():
        expected = package_sam().image_encoder(encoder.prepare(images))
    assert torch.equal(by_package(encoder, images), expected)


def by_package(encoder, images):
    """The embedding by the package's own forward; samkit's own is compared with it in test_sam_forward."""
    return encoder.encode(encoder.prepare(images), "package")


def as_predictor(image):
    """What the package's ``SamPredictor.set_image`` makes of a resized image."""
    return torch.as_tensor(image).permute(2, 0, 1).contiguous()[None]


def test_from_bytes_to_embedding_it_is_bitwise_the_package(file, images):
    sam = package_sam()
    transform = ResizeLongestSide(TINY.default_px)
    with torch.no_grad():
        expected = torch.cat(
            [
                sam.image_encoder(sam.preprocess(as_predictor(transform.apply_image(image))))
                for image in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
            ]
        )
    encoder = TINY.load(file, pixel_normalisation="sam-exact")
    assert torch.equal(torch.cat([by_package(encoder, image[None]) for image in images]), expected)


@pytest.mark.slow
def test_vit_b_at_1024_is_bitwise_the_package(tmp_path):
    from segment_anything import sam_model_registry

    torch.manual_seed(2)
    sam = sam_model_registry["vit_b"]().eval()
    with torch.no_grad():
        for name, parameter in sam.image_encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(std=0.1)
    path = checkpoint(tmp_path, sam.state_dict())
    image = np.random.default_rng(0).integers(0, 256, (180, 256, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(as_predictor(ResizeLongestSide(1024).apply_image(image))))
    encoder = SAM_VIT_B.load(path, pixel_normalisation="sam-exact")
    scaled = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    assert expected.shape == (1, 256, 64, 64)
    assert torch.equal(by_package(encoder, scaled), expected)
    assert (encoder(scaled) - expected).norm() < 1e-5 * expected.norm()  # by samkit's own forward


@ALL_SIZES
def test_the_architecture_is_the_published_one(model):
    assert (model.width, model.depth, model.attention_heads, model.global_blocks) == PUBLISHED[model]
    assert (model.window, model.patch_px, model.default_px) == (14, 16, 1024)


# Other sizes -----------------------------------------------------------------------------------------------------


def shaped_tensors(model):
    """Random position tables in the shapes of a checkpoint, and one tensor that has nothing to do with positions."""
    random = torch.Generator().manual_seed(model.depth)
    grid, per_head = model.default_px // model.patch_px, model.width // model.attention_heads
    given = {
        "pos_embed": torch.randn(1, grid, grid, model.width, generator=random),
        "patch_embed.proj.bias": torch.randn(model.width, generator=random),
    }
    for block in range(model.depth):
        cells = grid if block in model.global_blocks else model.window
        for axis in "hw":
            given[f"blocks.{block}.attn.rel_pos_{axis}"] = torch.randn(2 * cells - 1, per_head, generator=random)
    return given


def bilinear(table, shape):
    """Half-pixel-centred bilinear interpolation of a 2-D table, in float64 and without torch."""
    y, x = [
        np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        for new, old in zip(shape, table.shape, strict=True)
    ]
    return map_coordinates(table.astype(np.float64), np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")


@ALL_SIZES
@pytest.mark.parametrize("size", [512, 48, 1280])
def test_at_another_size_exactly_the_global_positions_change(model, size):
    given = shaped_tensors(model)
    resized = model.resized_positions(given, size)
    expected = {"pos_embed"} | {f"blocks.{block}.attn.rel_pos_{axis}" for block in PUBLISHED[model][3] for axis in "hw"}
    assert resized.keys() == given.keys()
    assert {name for name in given if not torch.equal(given[name], resized[name])} == expected


@ALL_SIZES
@pytest.mark.parametrize("size", [512, 48, 1280])
def test_positions_at_another_size_follow_the_rule_of_samed(model, size):
    given = shaped_tensors(model)
    resized = model.resized_positions(given, size)
    grid = size // 16
    assert resized["pos_embed"].shape == (1, grid, grid, model.width)
    for channel in (0, model.width - 1):
        expected = bilinear(given["pos_embed"][0, :, :, channel].numpy(), (grid, grid))
        np.testing.assert_allclose(resized["pos_embed"][0, :, :, channel].numpy(), expected, atol=1e-4)
    for block in PUBLISHED[model][3]:
        name = f"blocks.{block}.attn.rel_pos_h"
        # A table of (positions, channels) taken as an image: only its rows change in number.
        expected = bilinear(given[name].numpy(), (2 * grid - 1, given[name].shape[1]))
        np.testing.assert_allclose(resized[name].numpy(), expected, atol=1e-4)


@ALL_SIZES
def test_at_its_own_size_nothing_changes(model):
    given = shaped_tensors(model)
    resized = model.resized_positions(given, 1024)
    assert all(torch.equal(resized[name], given[name]) for name in given)


def test_the_given_tensors_are_left_as_they_are():
    given = shaped_tensors(TINY)
    before = {name: value.clone() for name, value in given.items()}
    TINY.resized_positions(given, 32)
    assert all(torch.equal(given[name], before[name]) for name in given)


def test_embeddings_at_another_size_are_those_of_the_package_with_resized_positions(file, images):
    encoder = TINY.load(file, size=96)
    sam = package_sam(input_px=96)
    prefix = "image_encoder."
    given = {name.removeprefix(prefix): value for name, value in tensors().items() if name.startswith(prefix)}
    sam.image_encoder.load_state_dict(TINY.resized_positions(given, 96))
    with torch.no_grad():
        assert torch.equal(by_package(encoder, images), sam.image_encoder(encoder.prepare(images)))


def test_tables_kept_in_half_precision_are_interpolated_in_full(tmp_path):
    half = {name: value.half() for name, value in tensors().items()}
    full = {name: value.float() for name, value in half.items()}
    first = TINY.load(checkpoint(tmp_path, half, "half.pth"), size=96).model.state_dict()
    second = TINY.load(checkpoint(tmp_path, full, "full.pth"), size=96).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)


# What a checkpoint brings ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_trained_and_a_seed_is_not(file):
    assert TINY.load(file).trained
    assert not TINY.load(None).trained


def test_the_mask_decoder_is_the_checkpoints(file):
    given = tensors()
    decoder = TINY.load(file).mask_decoder
    assert decoder.trained
    assert torch.equal(decoder.decoder["mask_tokens.weight"], given["mask_decoder.mask_tokens.weight"])
    assert torch.equal(decoder.no_mask, given["prompt_encoder.no_mask_embed.weight"][0])
    assert torch.equal(decoder.position_matrix, given["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"])


def test_an_image_encoder_alone_has_no_mask_decoder(tmp_path):
    alone = {name: value for name, value in tensors().items() if name.startswith("image_encoder.")}
    encoder = TINY.load(checkpoint(tmp_path, alone))
    assert encoder.mask_decoder is None
    assert encoder.trained


def test_what_others_added_to_the_decoder_is_left_out(tmp_path, file):
    more = {**tensors(), "mask_decoder.hf_token.weight": torch.zeros(1, 256)}
    decoder = TINY.load(checkpoint(tmp_path, more)).mask_decoder
    assert decoder.decoder.keys() == TINY.load(file).mask_decoder.decoder.keys()


def test_the_prompt_encoder_is_kept_where_the_checkpoint_has_all_of_it(tmp_path, file):
    whole = TINY.load(file).mask_decoder.prompt_encoder
    assert torch.equal(whole["not_a_point_embed.weight"], tensors()["prompt_encoder.not_a_point_embed.weight"])
    fewer = tensors()
    del fewer["prompt_encoder.not_a_point_embed.weight"]
    assert TINY.load(checkpoint(tmp_path, fewer)).mask_decoder.prompt_encoder == {}


def test_a_mask_decoder_with_parts_missing_is_refused_with_a_name(tmp_path):
    fewer = tensors()
    del fewer["mask_decoder.iou_token.weight"]
    with pytest.raises(WeightsError, match=r"mask_decoder\.iou_token\.weight"):
        TINY.load(checkpoint(tmp_path, fewer))


def test_a_mask_decoder_of_another_width_is_refused(tmp_path):
    other = {**tensors(), "mask_decoder.mask_tokens.weight": torch.zeros(4, 128)}
    with pytest.raises(WeightsError, match=r"mask_decoder\.mask_tokens\.weight"):
        TINY.load(checkpoint(tmp_path, other))


def test_a_missing_tensor_of_the_encoder_is_refused_with_its_name(tmp_path):
    fewer = tensors()
    del fewer["image_encoder.neck.0.weight"]
    with pytest.raises(WeightsError, match=r"not the weights of tiny: missing neck\.0\.weight \(0 .* 1 missing, 0"):
        TINY.load(checkpoint(tmp_path, fewer))


def test_a_tensor_that_the_encoder_does_not_have_is_refused_with_its_name(tmp_path):
    more = {**tensors(), "image_encoder.adapter.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"unknown adapter\.weight"):
        TINY.load(checkpoint(tmp_path, more))


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path):
    other = {**tensors(), "image_encoder.neck.1.weight": torch.zeros(128)}
    with pytest.raises(WeightsError, match=r"neck\.1\.weight is \(128,\), tiny has \(256,\)"):
        TINY.load(checkpoint(tmp_path, other))


def test_another_models_checkpoint_is_refused(file):
    with pytest.raises(WeightsError, match="not the weights of sam_vit_b"):
        SAM_VIT_B.load(file, size=64)


def test_the_recipe_holds_the_digest_of_the_file(tmp_path, file):
    import hashlib

    assert TINY.load(file).recipe.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    other = checkpoint(tmp_path, tensors(seed=9))
    assert TINY.load(other).recipe.id != TINY.load(file).recipe.id
