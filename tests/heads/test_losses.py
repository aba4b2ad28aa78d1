"""The loss is the formula of its docstring, and finite with finite gradients whatever the batch holds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samkit.heads.losses import IGNORED, DiceRule, segmentation_loss
from samkit.store.errors import GeometryMismatch, UnusableLabel, UsageError

# Shapes: B slices in a batch, K classes, H W pixels


def some_batch(*, classes=3, ignored=0.2, seed=0, dtype=torch.float32):
    """Random logits that want a gradient, and a target in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    logits_BKHW = torch.randn(2, classes, 5, 4, generator=generator, dtype=dtype)
    target_BHW = torch.randint(0, classes, (2, 5, 4), generator=generator)
    target_BHW[torch.rand(2, 5, 4, generator=generator) < ignored] = IGNORED
    return logits_BKHW.requires_grad_(), target_BHW


def sure_of(target_BHW, *, classes):
    """Logits that put all probability on the class of the target, and on background where it is ignored."""
    known = target_BHW.masked_fill(target_BHW == IGNORED, 0)
    return 1000.0 * torch.nn.functional.one_hot(known, classes).permute(0, 3, 1, 2).float()


def by_hand(logits_BKHW, target_BHW):
    """Both terms, pixel by pixel and class by class, in float64."""
    logits = logits_BKHW.detach().double().numpy()
    target = target_BHW.numpy()
    pixels = [tuple(pixel) for pixel in np.argwhere(target != IGNORED)]
    probability = {}
    for slice_, row, column in pixels:
        raised = np.exp(logits[slice_, :, row, column] - logits[slice_, :, row, column].max())
        probability[slice_, row, column] = raised / raised.sum()
    cross_entropy = -sum(math.log(probability[pixel][target[pixel]]) for pixel in pixels) / len(pixels)
    terms = []
    for value in range(1, logits.shape[1]):
        overlap = sum(probability[pixel][value] for pixel in pixels if target[pixel] == value)
        squares = sum(probability[pixel][value] ** 2 for pixel in pixels)
        count = sum(target[pixel] == value for pixel in pixels)
        if count:
            terms.append(1 - 2 * overlap / (squares + count))
    return cross_entropy, sum(terms) / len(terms)


# The papers' rules ------------------------------------------------------------------------------------------------


def dice_of(logits_BKHW, target_BHW, rule):
    return segmentation_loss(logits_BKHW, target_BHW, dice_rule=rule).dice.item()


def published_terms(logits_BKHW, target_BHW, constant):
    """1 - (2 sum(pg) + c) / (sum(p^2) + sum(g^2) + c) of every class, as both papers' codes have it."""
    known = target_BHW != IGNORED
    probability = logits_BKHW.detach().double().softmax(dim=1).numpy()
    terms = []
    for value in range(logits_BKHW.shape[1]):
        p, g = probability[:, value][known.numpy()], (target_BHW == value)[known].double().numpy()
        terms.append(1 - (2 * (p * g).sum() + constant) / ((p**2).sum() + (g**2).sum() + constant))
    return terms


def test_sam_lst_counts_background_and_absent_classes():
    logits_BKHW, target_BHW = some_batch(classes=4)
    target_BHW[target_BHW == 2] = 0
    expected = np.mean(published_terms(logits_BKHW, target_BHW, 1e-5))
    assert dice_of(logits_BKHW, target_BHW, DiceRule.WITH_BACKGROUND) == pytest.approx(expected, rel=1e-5)


def test_autosam_counts_the_foreground_classes_whose_term_is_positive():
    logits_BKHW, target_BHW = some_batch(classes=4)
    target_BHW[target_BHW == 2] = 0
    terms = published_terms(logits_BKHW, target_BHW, 1.0)[1:]
    assert dice_of(logits_BKHW, target_BHW, DiceRule.SMOOTHED) == pytest.approx(np.mean(terms), rel=1e-5)


def test_where_autosam_s_code_has_no_number_the_loss_is_nothing():
    """Empty slices, found empty: every term is 0, and the mean of none is NaN there."""
    target_BHW = torch.zeros(2, 5, 4, dtype=torch.long)
    assert dice_of(sure_of(target_BHW, classes=3), target_BHW, DiceRule.SMOOTHED) == 0


# The formula -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_both_terms_are_those_worked_out_by_hand(classes, ignored):
    logits_BKHW, target_BHW = some_batch(classes=classes, ignored=ignored)
    loss = segmentation_loss(logits_BKHW, target_BHW)
    assert (loss.cross_entropy.item(), loss.dice.item()) == pytest.approx(by_hand(logits_BKHW, target_BHW), rel=1e-5)


def test_a_pixel_of_even_odds_costs_what_arithmetic_says():
    loss = segmentation_loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.long))
    # Cross-entropy ln 2; Dice 1 - 2 * 0.5 / (0.25 + 1).
    assert (loss.cross_entropy.item(), loss.dice.item()) == pytest.approx((math.log(2), 0.2))


def test_the_total_is_the_weighted_sum_of_the_parts():
    logits_BKHW, target_BHW = some_batch()
    loss = segmentation_loss(logits_BKHW, target_BHW, cross_entropy_weight=0.2, dice_weight=0.8)
    assert loss.total.item() == pytest.approx(0.2 * loss.cross_entropy.item() + 0.8 * loss.dice.item())


def test_a_perfect_prediction_costs_nothing():
    _, target_BHW = some_batch()
    loss = segmentation_loss(sure_of(target_BHW, classes=3), target_BHW)
    assert (loss.total.item(), loss.cross_entropy.item(), loss.dice.item()) == (0.0, 0.0, 0.0)


def test_finding_nothing_of_what_is_there_costs_a_whole_dice():
    target_BHW = torch.ones(1, 4, 4, dtype=torch.long)
    loss = segmentation_loss(sure_of(torch.zeros_like(target_BHW), classes=2), target_BHW)
    assert loss.dice.item() == 1.0


def test_dice_sums_over_the_batch_and_not_within_slices():
    target_BHW = torch.zeros(2, 4, 4, dtype=torch.long)
    target_BHW[0, :2] = 1  # eight pixels, found
    target_BHW[1, 0, 0] = 1  # one pixel, missed
    found_BHW = target_BHW.clone()
    found_BHW[1] = 0
    loss = segmentation_loss(sure_of(found_BHW, classes=2), target_BHW)
    assert loss.dice.item() == pytest.approx(1 - 2 * 8 / (8 + 9))


def test_background_is_no_class_of_dice():
    logits_BKHW = torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    target_BHW = torch.zeros(1, 4, 4, dtype=torch.long)
    target_BHW[0, 0] = 2
    probability = logits_BKHW.softmax(1)[0, 2, 0, 0].item()
    loss = segmentation_loss(logits_BKHW, target_BHW)
    assert loss.dice.item() == pytest.approx(1 - 2 * 4 * probability / (16 * probability**2 + 4))


# Gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(1.0, 0.0), (0.0, 1.0), (0.2, 0.8)], ids=["cross-entropy", "dice", "both"])
def test_the_gradient_is_that_of_finite_differences(parts):
    logits_BKHW, target_BHW = some_batch(dtype=torch.float64)

    def total(logits):
        return segmentation_loss(logits, target_BHW, cross_entropy_weight=parts[0], dice_weight=parts[1]).total

    assert torch.autograd.gradcheck(total, (logits_BKHW,))


def test_following_the_gradient_of_dice_alone_finds_the_target():
    _, target_BHW = some_batch(ignored=0.0)
    logits_BKHW = torch.zeros(2, 3, 5, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits_BKHW], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        segmentation_loss(logits_BKHW, target_BHW, cross_entropy_weight=0.0).total.backward()
        optimizer.step()
    assert torch.equal(logits_BKHW.argmax(1), target_BHW)


# Ignored pixels --------------------------------------------------------------------------------------------------


def test_ignored_pixels_have_no_gradient_and_the_others_have():
    logits_BKHW, target_BHW = some_batch()
    segmentation_loss(logits_BKHW, target_BHW).total.backward()
    pulled_BHW = logits_BKHW.grad.abs().sum(1) > 0
    assert torch.equal(pulled_BHW, target_BHW != IGNORED)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_whatever_stands_at_ignored_pixels_changes_neither_loss_nor_gradient(junk):
    logits_BKHW, target_BHW = some_batch()
    spoilt_BKHW = logits_BKHW.detach().masked_fill((target_BHW == IGNORED).unsqueeze(1), junk).requires_grad_()
    clean, spoilt = (segmentation_loss(logits, target_BHW).total for logits in (logits_BKHW, spoilt_BKHW))
    clean.backward()
    spoilt.backward()
    assert clean.item() == spoilt.item()
    assert torch.equal(logits_BKHW.grad, spoilt_BKHW.grad)


def test_padding_does_not_dilute_the_loss():
    logits_BKHW, target_BHW = some_batch(ignored=0.0)
    margin = (0, 3, 0, 2)  # three columns, two rows
    padded = segmentation_loss(
        torch.nn.functional.pad(logits_BKHW, margin), torch.nn.functional.pad(target_BHW, margin, value=IGNORED)
    )
    bare = segmentation_loss(logits_BKHW, target_BHW)
    assert [part.item() for part in padded] == pytest.approx([part.item() for part in bare])


def test_a_batch_that_is_all_padding_costs_nothing_and_can_be_differentiated():
    logits_BKHW, target_BHW = some_batch()
    loss = segmentation_loss(logits_BKHW, torch.full_like(target_BHW, IGNORED))
    loss.total.backward()
    assert [part.item() for part in loss] == [0.0, 0.0, 0.0]
    assert torch.equal(logits_BKHW.grad, torch.zeros_like(logits_BKHW))


def test_an_ignored_value_beyond_the_type_of_the_labels_is_no_label():
    logits_BKHW, target_BHW = some_batch(ignored=0.0)
    target_BHW = target_BHW.to(torch.uint8)  # in which -100 would wrap round to 156
    assert segmentation_loss(logits_BKHW, target_BHW, ignore_index=-100) == segmentation_loss(logits_BKHW, target_BHW)


def test_another_value_can_be_the_ignored_one():
    logits_BKHW, target_BHW = some_batch()
    other_BHW = target_BHW.masked_fill(target_BHW == IGNORED, -100)
    assert segmentation_loss(logits_BKHW, other_BHW, ignore_index=-100) == segmentation_loss(logits_BKHW, target_BHW)


def test_a_class_whose_value_is_ignored_is_no_term_of_dice():
    logits_BKHW, target_BHW = some_batch(ignored=0.0)
    elsewhere_BHW = target_BHW.masked_fill(target_BHW == 2, IGNORED)
    ignoring_2 = segmentation_loss(logits_BKHW, target_BHW, ignore_index=2)
    assert ignoring_2 == segmentation_loss(logits_BKHW, elsewhere_BHW)


# Classes that are not there --------------------------------------------------------------------------------------


def test_a_batch_of_background_has_no_dice_but_the_gradient_of_cross_entropy():
    logits_BKHW, target_BHW = some_batch()
    loss = segmentation_loss(logits_BKHW, torch.zeros_like(target_BHW))
    loss.total.backward()
    assert loss.dice.item() == 0.0
    assert (logits_BKHW.grad[:, 0] < 0).all()  # a step against the gradient raises background
    assert (logits_BKHW.grad[:, 1:] > 0).all()  # and lowers every class


def test_background_predicted_as_background_costs_nothing():
    target_BHW = torch.zeros(2, 4, 4, dtype=torch.long)
    loss = segmentation_loss(sure_of(target_BHW, classes=3), target_BHW)
    assert [part.item() for part in loss] == [0.0, 0.0, 0.0]


def test_a_class_that_is_absent_does_not_enter_the_mean_of_dice():
    logits_BKHW, target_BHW = some_batch(classes=4, ignored=0.0)
    target_BHW = target_BHW.masked_fill(target_BHW == 2, 0)
    alone = []
    for value in (1, 3):
        only_BHW = target_BHW.masked_fill(target_BHW != value, 0)
        alone.append(segmentation_loss(logits_BKHW, only_BHW).dice.item())
    assert segmentation_loss(logits_BKHW, target_BHW).dice.item() == pytest.approx(sum(alone) / 2)


# Precision and extremes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits_BKHW, target_BHW = some_batch(dtype=dtype)
    loss = segmentation_loss(logits_BKHW, target_BHW)
    assert [part.dtype for part in loss] == [torch.float32] * 3
    assert loss == segmentation_loss(logits_BKHW.float(), target_BHW)


def test_a_large_batch_in_half_precision_does_not_overflow():
    logits_BKHW = torch.zeros(2, 2, 512, 512, dtype=torch.float16)  # 524288 pixels; float16 ends at 65504
    target_BHW = torch.ones(2, 512, 512, dtype=torch.uint8)
    assert segmentation_loss(logits_BKHW, target_BHW).dice.item() == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type_give_the_same_loss(dtype):
    logits_BKHW, target_BHW = some_batch()
    assert segmentation_loss(logits_BKHW, target_BHW.to(dtype)) == segmentation_loss(logits_BKHW, target_BHW)


@given(
    classes=st.integers(2, 5),
    present=st.sets(st.sampled_from([0, 1, 2, 3, 4, IGNORED]), min_size=1),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 100.0, 65504.0, 1e30]),
    weights=st.tuples(st.floats(0, 10), st.floats(0, 10)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_loss_and_gradient_are_finite_whatever_the_batch_holds(classes, present, scale, weights, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(sorted({value if value == IGNORED else value % classes for value in present}))
    target_BHW = values[torch.randint(0, len(values), (2, 4, 3), generator=generator)]
    logits_BKHW = (scale * torch.randn(2, classes, 4, 3, generator=generator)).requires_grad_()
    loss = segmentation_loss(logits_BKHW, target_BHW, cross_entropy_weight=weights[0], dice_weight=weights[1])
    loss.total.backward()
    assert all(torch.isfinite(part) for part in loss)
    assert torch.isfinite(logits_BKHW.grad).all()
    assert 0.0 <= loss.dice.item() <= 1.0 + 1e-6
    assert loss.cross_entropy.item() >= 0.0


# Refusals --------------------------------------------------------------------------------------------------------


def test_labels_on_another_grid_are_refused_with_both_shapes():
    with pytest.raises(GeometryMismatch, match=r"\(2, 3, 8, 8\).*\(2, 32, 32\).*nearest neighbour to \(8, 8\)"):
        segmentation_loss(torch.zeros(2, 3, 8, 8), torch.zeros(2, 32, 32, dtype=torch.long))


def test_labels_that_are_not_whole_are_refused():
    with pytest.raises(UnusableLabel, match=r"torch\.float32"):
        segmentation_loss(torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8))


def test_a_single_class_is_refused():
    with pytest.raises(UsageError, match="at least one more"):
        segmentation_loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))
