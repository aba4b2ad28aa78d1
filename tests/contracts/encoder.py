"""What every encoder must keep, whatever it computes: its tests inherit from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from samkit.stages.encoders.base import Encoder
from samkit.store.errors import UsageError


class EncoderContract:
    """Inherit, and say how to load the encoder at a small size.

    ``load`` takes size, precision, pixel_normalisation and storage_precision, all by name and all optional.
    """

    load: Callable[..., Encoder]
    #: Another size that the encoder takes, an odd number of cells.
    other_size = 48
    #: The encoder refuses sizes that are no multiple of this.
    patch_px = 16

    def images(self, count: int = 2, *, channels: int = 1, rows: int = 40, columns: int = 56) -> Tensor:
        random = torch.Generator().manual_seed(3)
        return torch.rand(count, channels, rows, columns, generator=random)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_images_of_one_and_three_channels_are_taken(self, channels):
        encoder = self.load()
        assert encoder(self.images(channels=channels)).shape == (2, *encoder.embedding_shape)

    @pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
    def test_images_of_any_float_kind_give_float32(self, kind):
        assert self.load()(self.images().to(kind)).dtype == torch.float32

    @pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 8, 8), (8, 8), (1, 4, 8, 8)])
    def test_images_of_another_shape_are_refused(self, shape):
        with pytest.raises(UsageError, match="1 or 3 channels"):
            self.load()(torch.rand(shape))

    def test_grey_images_are_seen_as_three_equal_channels(self):
        encoder, images = self.load(), self.images()
        assert torch.equal(encoder(images), encoder(images.repeat(1, 3, 1, 1)))

    def test_results_are_finite_even_for_flat_images(self):
        flat = torch.stack([torch.zeros(1, 40, 56), torch.ones(1, 40, 56)])
        assert torch.isfinite(self.load()(flat)).all()

    def test_equal_slices_in_equal_batches_give_bitwise_equal_embeddings(self):
        encoder, images = self.load(), self.images()
        assert torch.equal(encoder(images), encoder(images.clone()))

    def test_loading_again_gives_bitwise_equal_embeddings(self):
        assert torch.equal(self.load()(self.images()), self.load()(self.images()))

    def test_batch_mates_do_not_matter(self):
        encoder, images = self.load(), self.images(4)
        alone = torch.cat([encoder(images[number : number + 1]) for number in range(4)])
        torch.testing.assert_close(encoder(images), alone, rtol=1e-4, atol=1e-4)

    def test_a_call_is_prepare_and_then_encode(self):
        encoder, images = self.load(), self.images()
        prepared = encoder.prepare(images)
        side = encoder.recipe.input_px
        assert prepared.shape == (2, 3, side, side)
        assert torch.equal(encoder(images), encoder.encode(prepared))

    def test_slices_prepared_one_by_one_are_those_prepared_together(self):
        encoder, images = self.load(), self.images(3)
        alone = torch.cat([encoder.prepare(images[number : number + 1]) for number in range(3)])
        torch.testing.assert_close(encoder.prepare(images), alone, rtol=1e-6, atol=1e-6)

    def test_different_slices_have_different_embeddings(self):
        features = self.load()(self.images())
        assert not torch.allclose(features[0], features[1])

    def test_gradients_are_off(self):
        images = self.images().requires_grad_()
        assert not self.load()(images).requires_grad

    def test_a_head_can_be_trained_on_what_it_returns(self):
        encoder = self.load()
        head = torch.nn.Conv2d(encoder.embedding_shape[0], 2, kernel_size=1)
        head(encoder(self.images())).sum().backward()
        assert head.weight.grad is not None

    def test_embeddings_have_the_shape_that_is_promised_at_other_sizes_too(self):
        encoder = self.load(size=self.other_size)
        assert encoder.recipe.input_px == self.other_size
        assert tuple(encoder(self.images(1)).shape[1:]) == encoder.embedding_shape

    @pytest.mark.parametrize("factor", [1, 2, 3, 5, 9])
    def test_every_multiple_of_the_patch_is_a_size(self, factor):
        encoder = self.load(size=factor * self.patch_px)
        assert tuple(encoder(self.images(1)).shape[1:]) == encoder.embedding_shape
        assert encoder.embedding_shape[1:] == (factor, factor)

    @pytest.mark.parametrize(("size", "nearest"), [(50, 48), (60, 64), (47, 48), (8, 16), (1, 16), (0, 16), (-16, 16)])
    def test_another_size_is_refused_with_the_nearest(self, size, nearest):
        with pytest.raises(UsageError, match=rf"--size {size}: .*Try --size {nearest}\."):
            self.load(size=size)

    def test_the_recipe_is_the_same_each_time(self):
        assert self.load().recipe == self.load().recipe
        assert self.load().recipe.id == self.load().recipe.id

    @pytest.mark.parametrize(
        "changed",
        [
            {"size": 48},
            {"precision": "bfloat16"},
            {"pixel_normalisation": "sam-exact"},
            {"storage_precision": "float32"},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_what_changes_the_numbers_changes_the_recipe(self, changed):
        before, after = self.load().recipe, self.load(**changed).recipe
        assert before.id != after.id
        assert len(before.differences(after)) == 1

    def test_bfloat16_agrees_within_the_tolerance_that_the_recipe_states(self):
        exact, rounded = self.load(), self.load(precision="bfloat16")
        expected, features = exact(self.images()), rounded(self.images())
        assert features.dtype == torch.float32
        assert not torch.equal(features, expected)
        assert (features - expected).norm() / expected.norm() < rounded.recipe.tolerance

    @pytest.mark.parametrize(
        "wrong", [{"precision": "float8"}, {"pixel_normalisation": "imagenet"}, {"device": "tpu-of-the-future"}]
    )
    def test_words_that_mean_nothing_are_refused(self, wrong):
        with pytest.raises(UsageError):
            self.load(**wrong)

    def test_other_weights_are_another_recipe(self):
        recipe = self.load().recipe
        assert replace(recipe, weights_sha256="0" * 64).id != recipe.id

    def test_loading_leaves_the_random_numbers_of_the_caller_alone(self):
        before = torch.random.get_rng_state()
        self.load()
        assert torch.equal(torch.random.get_rng_state(), before)
