"""Signals follow the physics, fields are smooth, noise has the distribution it claims."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from samkit.stages.synthesis.scanner import (
    TISSUES,
    Acquisition,
    Tissue,
    add_rician_noise,
    bias_field,
    draw_acquisition,
    smooth_field,
)


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_a_right_angle_pulse_after_full_recovery_gives_the_proton_density():
    patient = Acquisition(repetition_time_ms=1e6, echo_time_ms=0, flip_angle_degrees=90)
    water = Tissue(t1_ms=4000, t2_ms=1500, proton_density=1.0)
    assert patient.signal(water) == pytest.approx(1.0)


def test_the_signal_peaks_at_the_ernst_angle():
    tissue = Tissue(t1_ms=800, t2_ms=50, proton_density=0.8)
    angles = np.arange(1, 90)
    signals = [
        Acquisition(repetition_time_ms=100, echo_time_ms=2, flip_angle_degrees=float(angle)).signal(tissue)
        for angle in angles
    ]
    ernst = np.rad2deg(np.arccos(np.exp(-100 / 800)))
    assert abs(angles[np.argmax(signals)] - ernst) <= 1


def test_the_signal_halves_with_each_half_life_of_the_echo():
    tissue = Tissue(t1_ms=800, t2_ms=50, proton_density=0.8)
    early = Acquisition(repetition_time_ms=100, echo_time_ms=0, flip_angle_degrees=60)
    late = Acquisition(repetition_time_ms=100, echo_time_ms=50 * np.log(2), flip_angle_degrees=60)
    assert late.signal(tissue) == pytest.approx(early.signal(tissue) / 2)


@given(st.integers(0, 2**32))
def test_any_acquisition_is_t1_weighted(seed):
    acquisition = draw_acquisition(generator(seed))
    signal = {name: acquisition.signal(tissue) for name, tissue in TISSUES.items()}
    assert signal["fat"] > signal["liver"] > signal["spleen"] > signal["fluid"]
    assert signal["renal cortex"] > signal["renal medulla"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.tuples(st.integers(2, 12), st.integers(2, 40), st.integers(2, 40)))
def test_a_field_has_mean_zero_and_deviation_one(seed, shape):
    field = smooth_field(generator(seed), shape, cycles=(1, 2, 2))
    assert field.shape == shape
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-3)


def test_more_cycles_make_a_rougher_field():
    def roughness(cycles):
        return np.abs(np.diff(smooth_field(generator(), (8, 64, 64), cycles=(1, cycles, cycles)), axis=2)).mean()

    assert roughness(1) < roughness(4) < roughness(16)


def test_a_bias_field_is_positive_and_as_strong_as_asked():
    field = bias_field(generator(), (8, 64, 64), strength=0.1)
    assert field.min() > 0
    assert np.log(field).std() == pytest.approx(0.1, rel=1e-3)


def test_noise_without_signal_follows_rayleigh():
    noise = add_rician_noise(generator(), np.zeros(20_000, np.float32), standard_deviation=3.0)
    assert stats.kstest(noise, stats.rayleigh(scale=3.0).cdf).pvalue > 0.01


def test_noise_on_a_strong_signal_follows_rice():
    noisy = add_rician_noise(generator(), np.full(20_000, 10, np.float32), standard_deviation=2.0)
    assert stats.kstest(noisy, stats.rice(5, scale=2.0).cdf).pvalue > 0.01


def test_no_noise_leaves_the_signal_as_it_is():
    signal = generator().uniform(0, 5, (3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(add_rician_noise(generator(), signal, standard_deviation=0), signal)
