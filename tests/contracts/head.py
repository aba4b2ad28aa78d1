"""What every head must keep, whatever it computes: its tests inherit from here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from examples.runs import keep_head
from torch import Tensor
from torch.nn import functional as F

from samkit.heads.base import Head, HeadContext, LiveEncoderWeights, SolvedHead, find_head, head_bytes, load_head
from samkit.heads.losses import IGNORED
from samkit.heads.seen import FeaturesAndBoxes, FeaturesAndSlices, Seen, Sees

# Of the largest gradient of a head, in float32; ten convolutions without norms leave 4e-7 of it at the first.
_ROUNDING = 3e-8


def changed(seen: Seen, how: Callable[[Tensor], Tensor]) -> Seen:
    """Return what is seen with each of its tensors changed."""
    return how(seen) if isinstance(seen, Tensor) else type(seen)(*map(how, seen))


def taken(seen: Seen, rows: slice) -> Seen:
    """Return some rows of what is seen."""
    return changed(seen, lambda part: part[rows])


class AnyHeadContract:
    """What holds whatever a head sees. Inherit from one of the two below."""

    head_class: type[Head]
    #: Of what is seen, without the batch, small; other sizes are tried too.
    input_shape: tuple[int, int, int]
    #: Cells of the logits for one cell, or pixel, of what is seen.
    finer: int
    class_count = 3

    def context(self, *, seed: int = 0) -> HeadContext:
        return HeadContext(input_shape=self.input_shape, class_count=self.class_count, seed=seed)

    def built(self, *, seed: int = 0) -> Head:
        return self.head_class.build(self.context(seed=seed)).eval()

    def seen(self, count: int = 2, *, height: int | None = None, width: int | None = None) -> Seen:
        channels, rows, columns = self.input_shape
        random = torch.Generator().manual_seed(7)
        return torch.rand(count, channels, height or rows, width or columns, generator=random)

    def test_it_is_found_by_its_name(self):
        assert find_head(self.head_class.name) is self.head_class

    @pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 2), (40, 17)])
    def test_logits_are_float32_and_as_fine_as_promised(self, height, width):
        logits = self.built()(self.seen(height=height, width=width))
        assert logits.shape == (2, self.class_count, self.finer * height, self.finer * width)
        assert logits.dtype == torch.float32

    def test_what_is_seen_may_be_float16_as_it_is_stored(self):
        head, seen = self.built(), changed(self.seen(), Tensor.half)
        assert torch.equal(head(seen), head(changed(seen, Tensor.float)))

    def test_the_logits_of_a_slice_do_not_depend_on_its_batch_mates(self):
        head, seen = self.built(), self.seen(5)
        alone = torch.cat([head(taken(seen, slice(number, number + 1))) for number in range(5)])
        torch.testing.assert_close(head(seen), alone, rtol=1e-4, atol=1e-5)

    def test_the_order_of_the_batch_is_the_order_of_the_logits(self):
        head, seen = self.built(), self.seen(3)
        backwards = changed(seen, lambda part: part.flip(0))
        torch.testing.assert_close(head(backwards), head(seen).flip(0), rtol=1e-4, atol=1e-5)

    def test_logits_depend_on_what_is_seen(self):
        head, seen = self.built(), self.seen()
        assert not torch.allclose(head(taken(seen, slice(1))), head(taken(seen, slice(1, None))))

    def test_equal_contexts_build_equal_heads(self):
        assert head_bytes(self.built(seed=3)) == head_bytes(self.built(seed=3))

    def test_building_leaves_the_random_numbers_of_the_caller_alone(self):
        before = torch.random.get_rng_state()
        self.built(seed=3)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_the_config_is_json_and_rebuilds_the_module(self):
        head = self.built()
        rebuilt = self.head_class(**json.loads(json.dumps(head.config)))
        assert rebuilt.config == head.config
        rebuilt.load_state_dict(head.state_dict(), strict=True)

    def test_a_kept_head_answers_bitwise_as_before(self, tmp_path: Path):
        head = self.built(seed=5)
        loaded = load_head(keep_head(tmp_path / "run", head))
        assert not loaded.training
        assert torch.equal(loaded(self.seen()), head(self.seen()))

    def test_the_parameter_count_is_that_of_what_is_trained(self):
        head = self.built()
        assert head.parameter_count() == sum(each.numel() for each in head.parameters() if each.requires_grad)


def silent_parameters(head: Head) -> list[str]:
    """Return what is to be trained and has no gradient but rounding: of the largest there is hardly a trace."""
    trained = {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}
    largest = {name: 0.0 if one.grad is None else float(one.grad.abs().max()) for name, one in trained.items()}
    return [name for name, found in largest.items() if found <= _ROUNDING * max(largest.values())]


class FittedHeadContract(AnyHeadContract):
    """What holds of heads that are fitted step by step."""

    #: First part of the name of every parameter that is trained, as the docstring says.
    trained_parts: frozenset[str]

    def test_another_seed_builds_another_head(self):
        assert head_bytes(self.built(seed=3)) != head_bytes(self.built(seed=4))

    def test_every_trainable_parameter_receives_a_gradient(self):
        head = self.built().train()
        # The sign of a target decides: a plain sum could cancel in a normalisation.
        logits = head(self.seen())
        random = torch.Generator().manual_seed(1)
        target = torch.randint(0, self.class_count, (2, *logits.shape[-2:]), generator=random)
        torch.nn.functional.cross_entropy(logits, target).backward()
        assert silent_parameters(head) == []

    def test_exactly_what_the_docstring_names_is_trained(self):
        trained = {name for name, parameter in self.built().named_parameters() if parameter.requires_grad}
        assert {name.split(".")[0] for name in trained} == self.trained_parts


class HeadContract(FittedHeadContract):
    """Of heads that see features: inherit, set ``head_class``, and list what is trained."""

    input_shape = (32, 4, 4)
    finer = 4

    def test_it_sees_features(self):
        assert self.head_class.sees is Sees.FEATURES


class SliceHeadContract(FittedHeadContract):
    """Of heads that see slices: inherit, set ``head_class``, and list what is trained."""

    input_shape = (1, 32, 32)
    finer = 1

    def test_it_sees_slices(self):
        assert self.head_class.sees is Sees.SLICES


class PairHeadContract(FittedHeadContract):
    """Of heads that see features and slices: inherit, set ``head_class``, and list what is trained."""

    input_shape = (32, 4, 4)
    finer = 4

    def seen(self, count: int = 2, *, height: int | None = None, width: int | None = None) -> Seen:
        features = super().seen(count, height=height, width=width)
        assert isinstance(features, Tensor)
        rows, columns = (16 * side for side in features.shape[-2:])
        slices = torch.rand(count, 1, rows, columns, generator=torch.Generator().manual_seed(8))
        return FeaturesAndSlices(features, slices)

    def test_it_sees_features_and_slices(self):
        assert self.head_class.sees is Sees.FEATURES_AND_SLICES

    def test_logits_depend_on_the_slices_alone_too(self):
        head, seen = self.built(), self.seen()
        assert isinstance(seen, FeaturesAndSlices)
        assert not torch.allclose(head(seen), head(seen._replace(slices=seen.slices.flip(-1))))


class SquareHeadContract(FittedHeadContract):
    """Of heads that run an encoder of their own: inherit, set ``head_class`` and ``live``, list what is trained."""

    input_shape = (1, 64, 64)
    #: What the encoder begins from.
    live: LiveEncoderWeights

    def context(self, *, seed: int = 0) -> HeadContext:
        return replace(super().context(seed=seed), live_encoder=self.live)

    def test_it_sees_squares(self):
        assert self.head_class.sees is Sees.SQUARES

    @pytest.mark.parametrize("channels", [1, 3])
    def test_logits_are_float32_and_as_fine_as_promised(self, channels):  # at the encoder's own size alone
        logits = self.built()(torch.rand(2, channels, 64, 64))
        assert logits.shape == (2, self.class_count, 16, 16)
        assert logits.dtype == torch.float32

    def test_what_lies_beside_the_slice_is_padded_after_it_is_normalised(self):
        head, square = self.built(), torch.rand(1, 1, 64, 64)
        square[..., 40:] = torch.nan
        assert torch.isfinite(head(square)).all()


class ZeroShotHeadContract(AnyHeadContract):
    """Of heads that are scored as they are built: inherit, and set ``head_class``."""

    input_shape = (32, 4, 4)
    finer = 4

    def test_nothing_of_it_is_trained(self):
        assert self.head_class.zero_shot
        assert self.built().parameter_count() == 0


class BoxHeadContract(ZeroShotHeadContract):
    """Of heads that are prompted with boxes: inherit, and set ``head_class``."""

    def seen(self, count: int = 2, *, height: int | None = None, width: int | None = None) -> Seen:
        features = super().seen(count, height=height, width=width)
        assert isinstance(features, Tensor)
        # Exact in float16 too.
        boxes = torch.tensor([0.25, 0.125, 0.75, 0.5]).repeat(count, self.class_count - 1, 1)
        return FeaturesAndBoxes(features, boxes)

    def test_it_sees_features_and_boxes(self):
        assert self.head_class.sees is Sees.FEATURES_AND_BOXES

    def test_logits_depend_on_the_boxes(self):
        head, seen = self.built(), self.seen()
        assert isinstance(seen, FeaturesAndBoxes)
        assert not torch.allclose(head(seen), head(seen._replace(boxes=seen.boxes / 2)))


class SolvedHeadContract(AnyHeadContract):
    """Of heads that are solved in one pass over the draw: inherit, and set ``head_class``."""

    input_shape = (32, 4, 4)
    finer = 4

    def rows(self, batch_size: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
        """Six rows whose first channels show what their labels say."""
        random = torch.Generator().manual_seed(11)
        coarse = torch.randint(0, self.class_count, (6, 4, 4), generator=random)
        features = torch.rand(6, *self.input_shape, generator=random)
        features[:, : self.class_count] += 2 * F.one_hot(coarse, self.class_count).movedim(-1, 1)
        labels = coarse.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2).to(torch.uint8)
        yield from zip(features.split(batch_size), labels.split(batch_size), strict=True)

    def built(self, *, seed: int = 0) -> SolvedHead:
        head = self.head_class.build(self.context(seed=seed))
        assert isinstance(head, SolvedHead)
        head.solve(self.rows())
        return head.eval()

    def test_it_finds_what_it_was_shown(self):
        head = self.built()
        for features, labels in self.rows():
            assert (head(features).argmax(dim=1) == labels).float().mean() > 0.85

    def test_it_has_nothing_to_train(self):
        assert self.built().parameter_count() == 0

    def test_it_is_the_same_from_batches_of_any_size(self):
        heads = [self.head_class.build(self.context()) for _ in range(2)]
        for head, batch_size in zip(heads, (1, 6), strict=True):
            head.solve(self.rows(batch_size))
        torch.testing.assert_close(heads[0](self.seen()), heads[1](self.seen()), rtol=1e-4, atol=1e-4)

    def test_solving_it_again_forgets_what_was_before(self):
        head, again = self.built(), self.built()
        again.solve((features.flip(1), labels) for features, labels in self.rows())
        again.solve(self.rows())
        assert torch.equal(head(self.seen()), again(self.seen()))

    def test_a_class_that_was_never_seen_is_never_found(self):
        head = self.head_class.build(self.context())
        head.solve((features, labels.clamp(max=self.class_count - 2)) for features, labels in self.rows())
        assert not (head(self.seen(20)).argmax(dim=1) == self.class_count - 1).any()

    def test_ignored_cells_teach_nothing(self):
        head, other = self.built(), self.head_class.build(self.context())

        def with_ignored_rows() -> Iterator[tuple[Tensor, Tensor]]:
            yield from self.rows()
            yield self.seen(3), torch.full((3, 16, 16), IGNORED, dtype=torch.uint8)

        other.solve(with_ignored_rows())
        torch.testing.assert_close(head(self.seen()), other(self.seen()), rtol=1e-4, atol=1e-4)
