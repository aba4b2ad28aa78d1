"""Embeddings as colours: equal cells have equal colours, and what differs most is told apart."""

from __future__ import annotations

import base64
import io
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from samkit.heads.frame import RESIZES
from samkit.stages.reporting.spectra import principal_colours, spectrum


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


class Rows:
    """Embeddings of a volume of drawn rows that tell which of them were read."""

    def __init__(self, count: int) -> None:
        self.features = np.random.default_rng(3).normal(size=(count, 8, 4, 4)).astype(np.float16)
        self.read_keys: list[int] = []
        self.recipe = SimpleNamespace(input_px=64, resize=RESIZES[0])
        self.journal = SimpleNamespace(missing=lambda _: [])

    def read(self, keys: list[int]) -> np.ndarray:
        self.read_keys += keys
        return self.features[keys]

    @property
    def volume(self) -> SimpleNamespace:
        count = len(self.features)
        return SimpleNamespace(row_keys=lambda: list(range(count)), record=SimpleNamespace(shape=(count, 1, 64, 64)))

    def shown(self, position: int) -> np.ndarray:
        data = spectrum(self, self.volume, position)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))))


def test_the_colours_of_a_small_volume_are_those_of_all_its_slices():
    rows = Rows(32)
    assert np.array_equal(rows.shown(5), principal_colours(rows.features)[5])


@pytest.mark.parametrize("position", [0, 17, 999])
def test_of_a_large_volume_few_rows_are_read_and_the_shown_one_is_among_them(position):
    rows = Rows(1000)
    spectrum(rows, rows.volume, position)
    assert len(set(rows.read_keys)) == len(rows.read_keys) == 32
    assert position in rows.read_keys


def test_the_rows_that_are_read_of_a_large_volume_are_spread_through_it():
    rows = Rows(1000)
    spectrum(rows, rows.volume, 500)
    assert np.diff([0, *sorted(rows.read_keys), 999]).max() < 60


def test_the_shown_slice_of_a_large_volume_has_its_own_colours():
    rows = Rows(33)
    rows.features[7] = rows.features[20]
    assert np.array_equal(rows.shown(7), rows.shown(20))


def test_colours_take_no_copy_of_the_rows_in_double_precision():
    features = np.ones((64, 32, 32, 32), np.float16)
    tracemalloc.start()
    try:
        principal_colours(features)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * features.nbytes
