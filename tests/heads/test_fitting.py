"""Fitting learns, stops early, keeps the best weights, and repeats bitwise."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from samkit.heads.base import HeadContext, head_bytes
from samkit.heads.fitting import Step, fit, learning_rate_at
from samkit.heads.linear import Linear
from samkit.heads.recipes import BFLOAT16, FLOAT32, FitOptions, Optimiser, Schedule

options_and_steps = st.builds(
    FitOptions,
    steps=st.integers(1, 500),
    learning_rate=st.floats(1e-5, 1.0),
    warmup_share=st.floats(0.0, 0.9),
)


def built(seed=0):
    return Linear.build(HeadContext(input_shape=(16, 4, 4), class_count=2, seed=seed))


def toy_batches(seed=0):
    """Cells that are class 1 where the first channel is positive: separable by a straight plane."""
    random = torch.Generator().manual_seed(seed)
    while True:
        features = torch.randn(4, 16, 4, 4, generator=random)
        labels = (features[:, 0] > 0).long().repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        yield features, labels


# The schedule ----------------------------------------------------------------------------------------------------


@given(options_and_steps)
def test_the_rate_is_never_above_the_one_asked_for_nor_zero(options):
    rates = [learning_rate_at(step, options) for step in range(options.steps)]
    assert all(0 < rate <= options.learning_rate * (1 + 1e-12) for rate in rates)


@given(options_and_steps)
def test_the_rate_rises_and_then_falls_for_good(options):
    rates = [learning_rate_at(step, options) for step in range(options.steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@given(options_and_steps)
def test_the_rate_asked_for_is_reached(options):
    rates = [learning_rate_at(step, options) for step in range(options.steps)]
    assert max(rates) == pytest.approx(options.learning_rate)


def test_the_rate_ends_close_to_zero():
    options = FitOptions(steps=200, learning_rate=1.0)
    assert learning_rate_at(199, options) < 1e-3


def test_the_rate_of_a_step_is_the_one_it_reports():
    options = FitOptions(steps=12)
    steps = list(fit(built(), toy_batches(), options))
    assert [step.learning_rate for step in steps] == [learning_rate_at(number, options) for number in range(12)]


def test_a_plateau_is_noticed_by_the_last_batch_of_an_epoch_from_the_eleventh_on():
    """torch's own rule: a tenth after eleven epochs that were no better."""
    # Nothing is learnt, so that no loss is better for good.
    options = FitOptions(
        epochs=40, batch_size=4, learning_rate=1e-12, schedule=Schedule.PLATEAU, optimiser=Optimiser.ADAM
    )
    batch = next(toy_batches())
    steps = list(fit(built(), itertools.repeat(batch), options, rows=8))
    assert len(steps) == 80
    rates = [step.learning_rate for step in steps]
    # Epochs 10 to 21 are looked at; the first of them is the best, eleven more are not better.
    assert rates[: 2 * 22] == 2 * 22 * [1e-12]
    assert rates[2 * 22] == pytest.approx(1e-13)


@pytest.mark.parametrize("optimiser", list(Optimiser))
def test_every_rule_learns(optimiser):
    steps = list(fit(built(), toy_batches(), FitOptions(steps=100, learning_rate=1e-2, optimiser=optimiser)))
    assert steps[-1].loss < steps[0].loss / 2


def test_decay_on_all_pulls_at_what_decay_spares():
    """With a gradient of nothing a bias shrinks only where everything decays."""
    shrunk = {}
    for optimiser in (Optimiser.ADAMW, Optimiser.ADAMW_ON_ALL):
        head = built()
        torch.nn.init.ones_(head.classifier[-1].bias)
        options = FitOptions(
            steps=20, learning_rate=1e-2, weight_decay=1.0, optimiser=optimiser, cross_entropy_weight=0, dice_weight=0
        )
        list(fit(head, toy_batches(), options))
        shrunk[optimiser] = head.classifier[-1].bias[0].item()
    assert shrunk[Optimiser.ADAMW] == 1.0
    assert shrunk[Optimiser.ADAMW_ON_ALL] < 0.95


def test_a_recipe_without_validation_looks_at_nothing():
    looked = []
    options = FitOptions(steps=10, validate_every=None)
    list(fit(built(), toy_batches(), options, validate=lambda head: looked.append(head) or 0.0))
    assert looked == []


# Learning --------------------------------------------------------------------------------------------------------


def test_a_separable_problem_is_learnt():
    head = built()
    steps = list(fit(head, toy_batches(), FitOptions(steps=150, learning_rate=1e-2)))
    features, labels = next(toy_batches(seed=99))
    correct = (head(features).argmax(dim=1) == labels).float().mean().item()
    assert correct > 0.95
    assert steps[-1].loss < steps[0].loss / 3


class Spy(Linear):
    """Tells what its logits were computed in."""

    def forward(self, features_BChw):
        self.computed_in = F.linear(features_BChw[0, :, 0], self.classifier[0].weight.new_ones(2, 4)).dtype
        return super().forward(features_BChw)


@pytest.mark.parametrize(("precision", "dtype"), [(FLOAT32, torch.float32), (BFLOAT16, torch.bfloat16)])
def test_products_are_computed_in_the_precision_asked_for_and_weights_stay_float32(precision, dtype):
    head = Spy(channels=16, class_count=2)
    list(fit(head, toy_batches(), FitOptions(steps=1, precision=precision)))
    assert head.computed_in == dtype
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}


def test_bfloat16_learns_what_float32_does():
    losses = {}
    for precision in (FLOAT32, BFLOAT16):
        steps = list(fit(built(), toy_batches(), FitOptions(steps=100, learning_rate=1e-2, precision=precision)))
        losses[precision] = sum(step.loss for step in steps[-10:])
    assert losses[BFLOAT16] == pytest.approx(losses[FLOAT32], rel=0.1)
    assert losses[BFLOAT16] != losses[FLOAT32]


def test_every_step_says_what_its_loss_is_made_of():
    for step in fit(built(), toy_batches(), FitOptions(steps=3)):
        assert step.loss == pytest.approx(step.cross_entropy + step.dice_loss, rel=1e-5)


def test_the_head_is_left_in_eval_mode():
    head = built()
    list(fit(head, toy_batches(), FitOptions(steps=1)))
    assert not head.training


def test_the_same_seed_gives_the_same_head_bitwise():
    heads = [built(seed=4), built(seed=4)]
    for head in heads:
        list(fit(head, toy_batches(seed=2), FitOptions(steps=20)))
    assert head_bytes(heads[0]) == head_bytes(heads[1])


def test_frozen_parameters_stay_as_they_are():
    head = built()
    head.classifier[0].requires_grad_(requires_grad=False)
    before = head.classifier[0].weight.clone()
    list(fit(head, toy_batches(), FitOptions(steps=5, weight_decay=0.5)))
    assert torch.equal(head.classifier[0].weight, before)


def test_weights_decay_and_biases_do_not():
    # Features of zero leave the first weights without a gradient: what moves them is the decay alone.
    head = built()
    torch.nn.init.constant_(head.upscaling[0].weight, 1.0)
    norm_before = head.upscaling[1].weight.clone()
    features, labels = torch.zeros(1, 16, 2, 2), torch.full((1, 8, 8), 255)
    options = FitOptions(steps=1, learning_rate=0.1, weight_decay=0.5, warmup_share=0.0)
    list(fit(head, itertools.repeat((features, labels)), options))
    torch.testing.assert_close(head.upscaling[0].weight, torch.full_like(head.upscaling[0].weight, 0.95))
    assert torch.equal(head.upscaling[1].weight, norm_before)


# Validation ------------------------------------------------------------------------------------------------------


class ScriptedValidation:
    """Answers with scores from a list, and remembers the weights it saw."""

    def __init__(self, scores):
        self.scores = iter(scores)
        self.seen = []
        self.modes = []

    def __call__(self, head):
        self.seen.append(head_bytes(head))
        self.modes.append(head.training)
        return next(self.scores)


def test_the_weights_of_the_best_validation_are_restored():
    validation = ScriptedValidation([0.2, 0.9, 0.5, 0.4])
    head = built()
    list(fit(head, toy_batches(), FitOptions(steps=8, validate_every=2), validate=validation))
    assert head_bytes(head) == validation.seen[1]
    assert validation.seen[1] != validation.seen[3]


def test_of_equal_scores_the_first_is_kept():
    validation = ScriptedValidation([0.5, 0.5, 0.5])
    head = built()
    list(fit(head, toy_batches(), FitOptions(steps=6, validate_every=2), validate=validation))
    assert head_bytes(head) == validation.seen[0]


def test_where_no_class_is_ever_found_the_last_weights_are_kept():
    validation = ScriptedValidation([0.0, 0.0, 0.0])
    head = built()
    list(fit(head, toy_batches(), FitOptions(steps=6, validate_every=2), validate=validation))
    assert head_bytes(head) == validation.seen[2]
    assert validation.seen[2] != validation.seen[0]


def test_without_validation_the_last_weights_are_kept():
    head = built()
    generator = fit(head, toy_batches(), FitOptions(steps=5))
    for step in generator:
        if step.number == 4:
            last = head_bytes(head)
    assert head_bytes(head) == last


def test_fitting_stops_when_validation_no_longer_gets_better():
    validation = ScriptedValidation([0.5, 0.6, 0.1, 0.1, 0.1, 0.1, 0.9])
    options = FitOptions(steps=100, validate_every=2, patience=3)
    steps = list(fit(built(), toy_batches(), options, validate=validation))
    assert len(steps) == 10  # the best after 4 steps, and three worse ones


def test_before_a_class_is_found_patience_does_not_end():
    validation = ScriptedValidation([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3])
    options = FitOptions(steps=14, validate_every=2, patience=3)
    assert len(list(fit(built(), toy_batches(), options, validate=validation))) == 14


def test_a_better_score_starts_the_patience_anew():
    validation = ScriptedValidation([0.5, 0.1, 0.1, 0.6, 0.1, 0.1, 0.7])
    options = FitOptions(steps=14, validate_every=2, patience=3)
    assert len(list(fit(built(), toy_batches(), options, validate=validation))) == 14


def test_the_last_step_is_always_validated():
    steps = list(fit(built(), toy_batches(), FitOptions(steps=5, validate_every=2), validate=lambda _head: 0.5))
    assert [step.number for step in steps if step.validation_dice is not None] == [1, 3, 4]


def test_validation_sees_the_head_in_eval_mode_and_training_goes_on_in_train_mode():
    validation = ScriptedValidation([0.1, 0.2])
    head = built()
    modes = []
    for step in fit(head, toy_batches(), FitOptions(steps=4, validate_every=2), validate=validation):
        modes.append(head.training)
        assert isinstance(step, Step)
    assert validation.modes == [False, False]
    assert modes == [True] * 4


def test_options_survive_json():
    options = FitOptions(steps=7, weight_decay=0.2)
    assert FitOptions(**options.to_json()) == options
