"""The ridge head keeps the contract of solved heads, and is the regression that its docstring names."""

import numpy as np
import pytest
import torch
from contracts.head import SolvedHeadContract

from samkit.heads.base import HeadContext
from samkit.heads.losses import IGNORED
from samkit.heads.ridge import Ridge


class TestRidge(SolvedHeadContract):
    head_class = Ridge


def some_rows(channels=6, cells=3, classes=3):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (5, 4 * cells, 4 * cells), generator=random)
    return torch.randn(5, channels, cells, cells, generator=random), labels


def test_it_is_the_weighted_ridge_regression():
    """Cell by cell in numpy: features and a constant against sixteen one-hot answers."""
    features, labels = some_rows()
    head = Ridge.build(HeadContext(input_shape=(6, 3, 3), class_count=3))
    head.solve([(features, labels)])
    counts = np.bincount(labels.flatten(), minlength=3)
    rarity = np.sqrt(counts.sum() / counts)
    examples, wanted, weights = [], [], []
    for row in range(5):
        for i in range(3):
            for j in range(3):
                piece = labels[row, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].numpy()
                examples.append([*features[row, :, i, j].tolist(), 1.0])
                wanted.append([piece.ravel() == number for number in range(3)])
                weights.append(rarity[piece].mean())
    x, w = np.array(examples), np.array(weights)
    y = np.array(wanted, float).reshape(len(x), -1)
    means = np.average(x, axis=0, weights=w)
    ridge = 1e-3 * w.sum() * np.diag([*np.average((x - means) ** 2, axis=0, weights=w)[:-1], 0.0])
    expected = np.linalg.solve((x * w[:, None]).T @ x + ridge, (x * w[:, None]).T @ y)
    np.testing.assert_allclose(head.weight[:, :, 0, 0].numpy(), expected[:-1].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(head.bias.numpy(), expected[-1], rtol=1e-3, atol=1e-4)


def test_it_is_finer_than_a_cell_of_the_features():
    random = torch.Generator().manual_seed(1)
    features = torch.randn(40, 4, 2, 2, generator=random)
    labels = torch.zeros(40, 8, 8, dtype=torch.long)
    labels[:, :2] = (features[:, 0, 0, 0] > 0).long()[:, None, None]  # the upper half of the upper cells
    labels[:, :2, 4:] = (features[:, 0, 0, 1] > 0).long()[:, None, None]
    head = Ridge.build(HeadContext(input_shape=(4, 2, 2), class_count=2))
    head.solve([(features, labels)])
    found = head(features).argmax(dim=1)
    assert (found[:, :2] == labels[:, :2]).float().mean() > 0.8
    assert found[:, 2:4].float().mean() < 0.2


@pytest.mark.parametrize("known", [1, 2, 3])
def test_cells_cut_by_the_edge_of_the_slice_take_nothing_from_any_class(known):
    features, labels = some_rows()
    labels[:, :, 8 + known :] = IGNORED  # of the four columns of the last cells
    head = Ridge.build(HeadContext(input_shape=(6, 3, 3), class_count=3))
    head.solve([(features, labels)])
    everything = torch.full((5, 12, 12), 10.0)  # the answers to all classes are 1, of `_SURENESS`
    torch.testing.assert_close(head(features).sum(dim=1), everything, rtol=1e-3, atol=1e-3)


def test_a_channel_that_never_changes_does_no_harm():
    features, labels = some_rows()
    features[:, 2] = 1.0
    head = Ridge.build(HeadContext(input_shape=(6, 3, 3), class_count=3))
    head.solve([(features, labels)])
    assert torch.isfinite(head.weight).all()
    assert head.weight.abs().max() < 10


def test_nothing_labelled_answers_background():
    features, labels = some_rows()
    head = Ridge.build(HeadContext(input_shape=(6, 3, 3), class_count=3))
    head.solve([(features, torch.zeros_like(labels))])
    assert (head(features).argmax(dim=1) == 0).all()
