"""Embeddings as colours: equal cells have equal colours, and what differs most is told apart."""

from __future__ import annotations

import numpy as np

from samkit.stages.reporting.spectra import principal_colours


def test_equal_cells_have_equal_colours():
    features = np.zeros((2, 8, 4, 4))
    features[:, :, 2:] = np.arange(8)[:, None, None]
    colours = principal_colours(features)
    assert colours.shape == (2, 4, 4, 3)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 2


def test_the_first_colour_follows_the_direction_that_differs_most():
    random = np.random.default_rng(0)
    along = np.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    direction = random.normal(size=(1, 16, 1, 1))
    features = 50 * along * direction + random.normal(size=(1, 16, 8, 8))
    red = principal_colours(features)[0, ..., 0].astype(float)
    assert abs(np.corrcoef(red.ravel(), along.ravel())[0, 1]) > 0.99


def test_equal_rows_give_equal_colours():
    features = np.random.default_rng(1).normal(size=(2, 16, 4, 4))
    assert np.array_equal(principal_colours(features), principal_colours(features.copy()))


def test_features_of_few_channels_have_fewer_colours():
    colours = principal_colours(np.random.default_rng(2).normal(size=(1, 2, 4, 4)))
    assert not colours[..., 2].any()
