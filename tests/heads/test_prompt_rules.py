"""Prompts made from masks lie where they say, overlap as much as they say, and repeat with their seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samkit.heads.prompt_rules import (
    PROMPTS,
    Asked,
    PromptRule,
    box_overlap,
    boxes_with_overlap,
    check_inside,
    click_on_error,
)
from samkit.heads.prompting import PointKind, Prompts
from samkit.store.errors import InputError, UsageError

HEIGHT, WIDTH = 20, 30
EVERYWHERE = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
MADE = [text for text in PROMPTS if text != "none"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def masks(count=6):
    made = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    for number in range(count):
        made[number, number : 2 * number + 3, 2 * number : 3 * number + 5] = True
    return made


def at(prompts, mask_of):
    columns, rows = prompts.points.long().unbind(dim=-1)
    return torch.stack([mask_of[number, rows[number], columns[number]] for number in range(len(mask_of))])


@pytest.mark.parametrize("text", PROMPTS)
def test_it_is_read_as_it_is_typed(text):
    rule = PromptRule.parse(text)
    assert text.startswith(rule.kind.value)


@pytest.mark.parametrize("text", ["point:0", "box", "box:2", "clicks:x", ""])
def test_another_is_refused_with_those_there_are(text):
    with pytest.raises(UsageError, match=r"give one of none, point:1"):
        PromptRule.parse(text)


@pytest.mark.parametrize(("text", "points"), [("point:1", 1), ("point:3", 3), ("clicks:3", 1), ("box:0.5", 2)])
def test_a_first_prompt_has_as_many_points_as_it_says(text, points):
    assert PromptRule.parse(text).ask(masks(), seeded()).kinds.shape == (6, points)


@pytest.mark.parametrize("text", ["point:1", "point:3", "clicks:3"])
def test_clicks_are_on_the_object(text):
    prompts = PromptRule.parse(text).ask(masks(), seeded())
    assert at(prompts, masks()).all()
    assert (prompts.kinds == PointKind.INSIDE).all()


def test_clicks_are_columns_before_rows():
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 3, 25] = True
    assert PromptRule.parse("point:1").ask(mask, seeded()).points.tolist() == [[[25.0, 3.0]]]


def test_a_tight_box_is_that_of_the_mask():
    prompts = PromptRule.parse("box:tight").ask(masks(), seeded())
    assert prompts.points[2].tolist() == [[4.0, 2.0], [10.0, 6.0]]


@pytest.mark.parametrize("text", MADE)
def test_equal_seeds_ask_alike(text):
    rule = PromptRule.parse(text)
    assert torch.equal(rule.ask(masks(), seeded(3)).points, rule.ask(masks(), seeded(3)).points)


@pytest.mark.parametrize("text", ["point:1", "box:jittered", "box:0.5"])
def test_another_seed_asks_otherwise(text):
    rule = PromptRule.parse(text)
    assert not torch.equal(rule.ask(masks(), seeded(3)).points, rule.ask(masks(), seeded(4)).points)


@pytest.mark.parametrize("text", MADE)
def test_no_prompt_leaves_the_plane(text):
    whole = torch.ones(4, HEIGHT, WIDTH, dtype=torch.bool)
    for seed in range(10):
        check_inside(PromptRule.parse(text).ask(whole, seeded(seed)), HEIGHT, WIDTH)


@pytest.mark.parametrize("text", MADE)
def test_an_empty_mask_is_refused(text):
    some = masks()
    some[3] = False
    with pytest.raises(InputError, match="is empty: a click on it"):
        PromptRule.parse(text).ask(some, seeded())


@given(
    corner=st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)),
    sides=st.tuples(st.integers(1, WIDTH), st.integers(1, HEIGHT)),
    overlap=st.sampled_from([0.75, 0.5]),
    seed=st.integers(0, 2**20),
)
def test_a_box_overlaps_the_tight_one_as_much_as_it_says(corner, sides, overlap, seed):
    (left, top), (width, height) = corner, sides
    last = (min(WIDTH - 1, left + width - 1), min(HEIGHT - 1, top + height - 1))
    tight = torch.tensor([[left, top, *last]], dtype=torch.float32)
    within = torch.tensor([[0.0, 0.0, WIDTH - 1.0, HEIGHT - 1.0]])
    moved = boxes_with_overlap(tight, overlap, within, seeded(seed))
    assert box_overlap(moved, tight).item() == pytest.approx(overlap, abs=1e-3)
    assert (moved[:, :2] >= within[:, :2]).all()
    assert (moved[:, 2:] <= within[:, 2:]).all()


def test_the_overlap_of_boxes_counts_pixels():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    others = torch.tensor([[1.0, 0.0, 2.0, 1.0], [5.0, 5.0, 6.0, 6.0]])
    assert box_overlap(boxes, others).tolist() == pytest.approx([2 / 6, 0.0])


def test_a_correction_lies_deepest_in_what_is_wrong_every_time():
    answer, mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool), torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 5:10, 8:13] = True
    answer[0, 0:2, 0:2] = True
    points, inside = click_on_error(answer, mask, EVERYWHERE, None)
    assert (points.tolist(), inside.tolist()) == ([[10.0, 7.0]], [True])


def test_a_correction_of_what_is_too_much_says_that_it_is_outside():
    answer, mask = masks(1), torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    points, inside = click_on_error(answer, mask, EVERYWHERE, seeded())
    assert at(Prompts.of_points(points[:, None], inside[:, None]), answer)[0, 0]
    assert inside.tolist() == [False]


@pytest.mark.parametrize("random", [None, seeded()])
def test_where_nothing_is_wrong_a_correction_says_what_is_true(random):
    points, inside = click_on_error(masks(2), masks(2), EVERYWHERE.expand(2, -1, -1), random)
    columns, rows = points.long().unbind(dim=1)
    assert inside.tolist() == masks(2)[[0, 1], rows, columns].tolist()


@pytest.mark.parametrize("random", [None, seeded()])
def test_no_correction_falls_beside_what_is_known(random):
    known = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    known[:, :4] = True
    for answers in (masks(2), torch.ones_like(known)):
        points, _ = click_on_error(answers, masks(2), known, random)
        assert (points[:, 1] < 4).all()


@pytest.mark.parametrize("text", ["box:jittered", "box:0.75", "box:0.5"])
def test_no_box_reaches_beyond_what_it_must_stay_within(text):
    within = torch.tensor([0.0, 0.0, 12.0, 9.0]).expand(3, 4)
    for seed in range(10):
        corners = PromptRule.parse(text).ask(masks(3), seeded(seed), within).points
        assert (corners[:, 0] >= 0).all()
        assert (corners[:, 1] <= within[:, 2:]).all()


def test_pixels_are_drawn_of_planes_that_torch_cannot_draw_from_at_once():
    huge = torch.zeros(1, 4100, 4100, dtype=torch.bool)
    huge[0, 4000, 17] = True
    assert PromptRule.parse("point:1").ask(huge, seeded()).points.tolist() == [[[17.0, 4000.0]]]


@pytest.mark.parametrize("place", [(WIDTH, 0), (0, HEIGHT), (-1, 4), (3, -0.6), (HEIGHT + 5.0, WIDTH - 1.0)])
def test_a_point_outside_the_slice_is_refused_with_its_place(place):
    prompts = Prompts.of_points(torch.tensor([[[1.0, 1.0], list(map(float, place))]]), torch.tensor([[1, 1]]))
    with pytest.raises(UsageError, match=rf"has a point at column .*{WIDTH} columns and {HEIGHT} rows"):
        check_inside(prompts, HEIGHT, WIDTH)


def test_a_point_that_says_nothing_may_lie_anywhere():
    prompts = Prompts(points=torch.full((1, 1, 2), -50.0), kinds=torch.tensor([[int(PointKind.NOTHING)]]))
    check_inside(prompts, HEIGHT, WIDTH)


def test_clicks_are_corrected_as_often_as_there_are_more_of_them():
    assert (PromptRule.parse("clicks:3").corrections, PromptRule.parse("point:3").corrections) == (2, 0)
    assert PromptRule.parse("none").kind is Asked.NONE
