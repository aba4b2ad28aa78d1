"""What the embedded encoder is asked is what the docstrings say, against trusted libraries and plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from samkit.heads.prompting import PointKind, PromptedDecoder, boxes_around, jittered, points_on
from samkit.heads.sam_modules import MaskDecoder, PromptEncoder, TwoWayTransformer
from samkit.stages.encoders.nano_objective import (
    ObjectiveWeights,
    Questions,
    borders,
    brightness,
    draw_masks,
    intersection_over_union,
    largest_pieces,
    mask_losses,
    places,
    prototype_loss,
    solved_loss,
)
from samkit.stages.synthesis.pictures import PictureBatch, Pictures
from samkit.stages.synthesis.shapes import Kind


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch():
    return Pictures(3, 6, subjects=2, size=64).batch(0)


# Prompts ---------------------------------------------------------------------------------------------------------


def some_masks(count=5, size=20):
    masks = torch.rand(count, size, size, generator=random()) > 0.97
    masks[:, 3, 4] = True
    return masks


def test_boxes_are_those_of_torchvision():
    from torchvision.ops import masks_to_boxes

    assert torch.equal(boxes_around(some_masks()), masks_to_boxes(some_masks()))


def test_a_box_is_moved_by_a_tenth_of_its_side_and_not_too_far():
    boxes = torch.tensor([[10.0, 20.0, 109.0, 39.0]]).repeat(4000, 1)
    moved = jittered(boxes, 0.1, 15.0, random()) - boxes
    assert moved.abs().max() <= 15
    assert moved[:, 1].std() == pytest.approx(2.0, rel=0.1)
    assert moved[:, 0].std() == pytest.approx(9.2, rel=0.1)  # of 10, where a few are cut off
    assert moved.mean(dim=0).abs().max() < 0.5


def test_points_lie_on_the_mask():
    points = points_on(some_masks(), random()).long()
    assert some_masks()[torch.arange(5), points[:, 1], points[:, 0]].all()


def test_points_come_from_all_over_the_mask():
    mask = torch.zeros(1, 4, 4)
    mask[0, 1, 2] = mask[0, 3, 0] = 1
    found = {tuple(points_on(mask, random(seed))[0].tolist()) for seed in range(30)}
    assert found == {(2.0, 1.0), (0.0, 3.0)}


# Targets ---------------------------------------------------------------------------------------------------------


def test_masks_are_of_parts_or_whole_solids_that_are_not_small(batch):
    owners, masks = draw_masks(batch, 16 * 6, random())
    assert owners.bincount().tolist() == 6 * [16]
    wholes = 0
    for owner, mask in zip(owners, masks, strict=True):
        parts = batch.parts[owner, 0]
        inside = set(parts[mask].tolist())
        solids = {int(batch.solids[owner, part]) for part in inside}
        assert len(solids) == 1
        assert 0 not in inside
        assert torch.isin(parts, torch.tensor(sorted(inside))).float().mean() >= 0.002
        wholes += len(inside) > 1
    assert wholes > 0


def test_a_mask_is_in_one_piece(batch):
    _, masks = draw_masks(batch, 16 * 6, random())
    assert {ndimage.label(mask.numpy())[1] for mask in masks} == {1}


def test_of_a_part_in_pieces_the_largest_is_prompted():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 0, :3] = mask[0, 1, 3] = True  # a corner does not connect
    mask[0, 5:7, 2:5] = True
    (piece,) = largest_pieces(mask)
    assert torch.nonzero(piece).tolist() == [[row, column] for row in (5, 6) for column in (2, 3, 4)]


def test_rings_are_prompted_more_often_than_they_are_drawn(batch):
    owners, masks = draw_masks(batch, 64 * 6, random())
    kinds = [
        int(batch.kinds[owner, batch.parts[owner, 0][mask].long()].min())
        for owner, mask in zip(owners, masks, strict=True)
    ]
    drawn = [kind for kinds_of_one in batch.kinds.tolist() for kind in kinds_of_one if kind]
    assert kinds.count(Kind.WALL) / len(kinds) > 1.5 * drawn.count(Kind.WALL) / len(drawn)
    assert kinds.count(Kind.REGION) / len(kinds) < drawn.count(Kind.REGION) / len(drawn)


def test_places_are_measured_from_the_middle_of_a_part_in_its_own_size():
    parts = torch.zeros(1, 16, 16, dtype=torch.long)
    parts[0, 2:8, 5:9] = 1
    row, column, size = places(parts)[0][:, 2:8, 5:9]
    rows, columns = np.mgrid[2:8, 5:9]
    deviation = np.sqrt(rows.var() + columns.var())
    np.testing.assert_allclose(row, (rows - 4.5) / deviation, rtol=1e-4)
    np.testing.assert_allclose(column, (columns - 6.5) / deviation, rtol=1e-4)
    np.testing.assert_allclose(size, np.full(row.shape, np.log(deviation / 2)), rtol=1e-4)


def test_borders_are_the_cells_on_both_sides_of_a_change():
    parts = torch.zeros(1, 4, 5, dtype=torch.long)
    parts[0, 1:3, 2:] = 7
    expected = [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert borders(parts)[0].tolist() == expected


def test_brightness_is_that_of_a_cell_among_all_of_its_picture():
    images = torch.rand(2, 8, 8, generator=random())
    cells = images.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4))
    expected = [(one - one.mean()) / one.std() for one in cells]
    torch.testing.assert_close(brightness(images, 4), torch.stack(expected))


def test_a_flat_picture_has_no_brightness_to_tell():
    assert brightness(torch.full((1, 8, 8), 0.3), 4).abs().max() < 1e-5


# Losses ----------------------------------------------------------------------------------------------------------


def test_a_mask_costs_its_cross_entropy_twice_and_what_its_dice_lacks():
    logits, target = torch.randn(3, 2, 8, 8, generator=random()), torch.rand(3, 8, 8, generator=random()) > 0.7
    for number in range(3):
        for answer in range(2):
            own, wanted = logits[number, answer], target[number].float()
            both = (own.sigmoid() * wanted).sum()
            dice = 1 - (2 * both + 1) / (own.sigmoid().sum() + wanted.sum() + 1)
            found = mask_losses(logits, target)[number, answer]
            torch.testing.assert_close(found, 2 * F.binary_cross_entropy_with_logits(own, wanted) + dice)


def test_the_overlap_of_masks_is_counted_by_hand():
    logits = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    target = torch.tensor([[[True, False], [True, False]]])
    torch.testing.assert_close(intersection_over_union(logits, target), torch.tensor([[1 / 3, 0.0]]))


def prototype_loss_by_loops(vectors, parts):
    """One subject after the other, one cell after the other."""
    subjects = vectors.shape[0]
    losses, weights = [], []
    for mine in range(subjects):
        theirs = (mine - 1) % subjects
        there = sorted(set(parts[theirs].flatten().tolist()))
        known = F.normalize(vectors[theirs].flatten(1), dim=0)
        means = [known[:, parts[theirs].flatten() == part].sum(dim=1) for part in there]
        own = F.normalize(vectors[mine].flatten(1), dim=0)
        for cell, part in enumerate(parts[mine].flatten().tolist()):
            if part in there:
                scores = np.array([float(own[:, cell] @ F.normalize(mean, dim=0)) / 0.1 for mean in means])
                losses.append(np.log(np.exp(scores).sum()) - scores[there.index(part)])
                weights.append(float((parts[mine] == part).sum()) ** -0.5)
    return np.average(losses, weights=weights)


def test_cells_are_told_apart_by_the_mean_vectors_of_another_subject():
    vectors = torch.randn(1, 3, 4, 3, 3, generator=random())
    # Part 3 is seen in one subject alone, part 2 in two of three.
    parts = torch.tensor(
        [[[[0, 0, 1], [1, 2, 2], [0, 1, 2]], [[1, 0, 1], [1, 2, 0], [0, 3, 2]], [[0] * 3, [1] * 3, [0] * 3]]]
    )
    expected = prototype_loss_by_loops(vectors[0], parts[0])
    assert float(prototype_loss(vectors, parts)) == pytest.approx(expected, rel=1e-4)


def solved_loss_by_numpy(features, parts, ridge, sureness):
    """One subject after the other; a cell of the embedding answers for four of the logit grid."""
    subjects, channels, height, width = features.shape
    labels = parts.max() + 1
    losses, weights = [], []
    for mine in range(subjects):
        theirs = (mine - 1) % subjects
        known, own = (features[one].reshape(channels, -1).T / np.sqrt(channels) for one in (theirs, mine))
        cells = [(row, column) for row in range(height) for column in range(width)]
        pieces = [parts[theirs, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel() for row, column in cells]
        answers = np.eye(labels)[pieces].reshape(len(cells), -1)
        centred = known - known.mean(axis=0)
        solved = np.linalg.solve(
            centred.T @ centred + ridge * np.eye(channels), centred.T @ (answers - answers.mean(axis=0))
        )
        found = ((own - known.mean(axis=0)) @ solved + answers.mean(axis=0)).reshape(len(cells), 4, labels)
        there = set(parts[theirs].ravel().tolist())
        for (row, column), scores in zip(cells, sureness * found, strict=True):
            for piece, part in enumerate(parts[mine, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel()):
                if part in there:
                    among = [scores[piece, other] for other in there]
                    losses.append(np.log(np.exp(among).sum()) - scores[piece, part])
                    weights.append((parts[mine] == part).sum() ** -0.5)
    return np.average(losses, weights=weights)


def test_cells_are_told_apart_by_a_ridge_regression_on_another_subject():
    features = torch.randn(1, 3, 5, 4, 3, generator=random())
    parts = torch.randint(0, 4, (1, 3, 8, 6), generator=random())
    parts[0, 1][parts[0, 1] == 2] = 0
    expected = solved_loss_by_numpy(features[0].double().numpy(), parts[0].numpy(), 0.4, 7.0)
    found = solved_loss(features, parts, torch.tensor(0.4), torch.tensor(7.0))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def comparisons():
    return [prototype_loss, lambda vectors, parts: solved_loss(vectors, parts, torch.tensor(0.1), torch.tensor(10.0))]


@pytest.mark.parametrize("compared", comparisons())
def test_subjects_without_a_part_in_common_ask_nothing(compared):
    vectors = torch.randn(1, 2, 4, 2, 2, generator=random())
    parts = torch.tensor([[[[1, 1], [1, 1]], [[2, 2], [2, 2]]]])
    assert float(compared(vectors, parts)) == 0


def test_alike_subjects_are_nearly_no_surprise():
    parts = torch.tensor([[[[0, 0, 1], [1, 2, 2], [0, 1, 2]]] * 2])
    vectors = F.one_hot(parts, 4).permute(0, 1, 4, 2, 3).float()
    assert float(prototype_loss(vectors, parts)) < 1e-3


# All together ----------------------------------------------------------------------------------------------------


def asked(weights):
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=16, num_heads=8)
    decoder = PromptedDecoder(
        PromptEncoder(32, (4, 4), (64, 64), 16), MaskDecoder(transformer_dim=32, transformer=transformer)
    )
    return Questions(decoder, weights)


def embeddings():
    return torch.randn(6, 2, 32, 4, 4, generator=random()).requires_grad_()


class Answering(torch.nn.Module):
    """A decoder whose answers are given, mask by mask; it keeps what it was asked."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.asked = [*answers], []

    def forward(self, embeddings_NChw, prompts, previous_NGG=None):
        self.asked.append((prompts, previous_NGG))
        logits = self.answers.pop(0)
        return logits, torch.zeros(logits.shape[:2])


def one_square(count=4):
    """A scene that shows one part, a square of 16 pixels (4 cells of the logit grid), and where it is on that grid."""
    parts = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    parts[..., 16:32, 24:40] = 1
    batch = PictureBatch(
        images=torch.zeros(1, 1, 64, 64),
        parts=parts,
        kinds=torch.tensor([[Kind.OUTSIDE, Kind.ORGAN]]),
        solids=torch.tensor([[0, 1]]),
    )
    return batch, (parts[:, 0, ::4, ::4] == 1).expand(count, -1, -1)


def prompted(first, second, count=4):
    batch, _ = one_square(count)
    questions = asked(ObjectiveWeights(prompted=1.0))
    questions.decoder = Answering(first, second)
    return questions.prompted(torch.zeros(1, 32, 4, 4), batch, count, random()), questions.decoder.asked


def sure(masks_NGG, answers=4):
    """Logits that say a mask and hardly anything else, the same in each of some answers."""
    return torch.where(masks_NGG[:, None], 30.0, -30.0).repeat(1, answers, 1, 1)


def corrections(found_NGG):
    """Of the second prompts after an answer: each click's cell, and whether it says inside."""
    _, target = one_square()
    _, (_, (prompts, _)) = prompted(sure(found_NGG), sure(target))
    return ((prompts.points[:, -1] - 1.5) / 4).long().tolist(), prompts.kinds[:, -1].tolist()


def test_a_correction_clicks_inside_where_the_answer_missed_the_mask():
    _, target = one_square()
    half = target.clone()
    half[:, :6] = False  # rows 4 and 5 of 4 to 7 are missed
    cells, kinds = corrections(half)
    assert all(4 <= row < 6 and 6 <= column < 10 for column, row in cells)
    assert kinds == 4 * [PointKind.INSIDE]


def test_a_correction_clicks_outside_where_the_answer_goes_beyond_the_mask():
    _, target = one_square()
    more = target.clone()
    more[:, 12:] = True
    cells, kinds = corrections(more)
    assert all(row >= 12 for _, row in cells)
    assert kinds == 4 * [PointKind.OUTSIDE]


def test_a_correction_is_asked_with_the_answer_before_it():
    _, target = one_square()
    first = sure(target)
    first[:, 1:] *= -1  # of a click the best of the three counts, of a box the first answer
    first[1::2, 2] *= -1
    _, (_, (_, before)) = prompted(first, sure(target))
    assert torch.equal(before > 0, target)


def test_of_a_box_the_first_answer_counts_and_of_a_click_the_best_of_the_others():
    _, target = one_square()
    first, second = (torch.randn(4, 4, 16, 16, generator=random(seed)) for seed in (1, 2))
    told, _ = prompted(first, second)
    losses, reached = mask_losses(first, target), intersection_over_union(first, target)
    of_box = [losses[number, 0] for number in (0, 2)]
    of_click = [min(losses[number, 1:]) + 0.2 * losses[number, 0] for number in (1, 3)]
    corrected, after = mask_losses(second, target)[:, 0], intersection_over_union(second, target)[:, 0]
    # The decoder's guesses of its own IoU are all 0.
    expected = sum(of_box + of_click) / 4 + reached.square().mean() + corrected.mean() + after.square().mean()
    torch.testing.assert_close(told["prompted"], expected)
    torch.testing.assert_close(told["box_iou"], reached[0::2, 0].mean())
    torch.testing.assert_close(told["click_iou"], (max(reached[1, 1:]) + max(reached[3, 1:])) / 2)
    torch.testing.assert_close(told["corrected_iou"], after.mean())


def test_losses_are_finite_and_reach_the_embedding(batch):
    features = embeddings()
    told = asked(ObjectiveWeights(prompted=1.0))(features, batch, random())
    losses = {name: value for name, value in told.items() if not name.endswith("_iou")}
    assert set(losses) == {"kind", "place", "border", "picture", "likeness", "solved", "prompted"}
    assert all(torch.isfinite(value) for value in told.values())
    for value in losses.values():
        (gradient,) = torch.autograd.grad(value, features, retain_graph=True)
        assert gradient.abs().sum() > 0


NOTHING = {"prompted": 0.0, "dense": 0.0, "picture": 0.0, "likeness": 0.0, "solved": 0.0}


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("prompted", {"prompted", "box_iou", "click_iou", "corrected_iou"}),
        ("dense", {"kind", "place", "border"}),
        ("picture", {"picture"}),
        ("likeness", {"likeness"}),
        ("solved", {"solved"}),
    ],
)
def test_what_counts_nothing_is_not_asked(batch, question, told):
    weights = ObjectiveWeights(**(NOTHING | {question: 1.0}))
    assert set(asked(weights)(embeddings(), batch, random())) == told


def test_a_weight_counts_once(batch):
    single, double = (
        asked(ObjectiveWeights(**dict.fromkeys(NOTHING, factor)))(embeddings(), batch, random())
        for factor in (1.0, 2.0)
    )
    for name, value in single.items():
        factor = 1 if name.endswith("_iou") else 2
        torch.testing.assert_close(double[name], factor * value)


def test_equal_seeds_ask_the_same(batch):
    first, second = (asked(ObjectiveWeights(prompted=1.0))(embeddings(), batch, random(4)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_that_shows_no_part_prompts_nothing(batch):
    empty = replace(batch, parts=torch.zeros_like(batch.parts))
    owners, masks = draw_masks(empty, 8, random())
    assert (len(owners), len(masks)) == (0, 0)
    told = asked(ObjectiveWeights(prompted=1.0))(embeddings(), empty, random())
    assert "prompted" not in told
    assert all(torch.isfinite(value) for value in told.values())
