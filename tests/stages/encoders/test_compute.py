"""What rows are computed by is decided from the input size, the device and its memory."""

from __future__ import annotations

import pytest
import torch
from examples.tiny_sam import TINY
from hypothesis import given
from hypothesis import strategies as st

from samkit.stages.encoders.compute import (
    ComputeClass,
    choose_compute,
    device_kind,
    fitting_slices,
    slices_at_once,
    too_small,
)


@pytest.fixture(scope="module")
def tiny():
    return TINY.load(None)


@pytest.mark.parametrize(("name", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:3", "cuda"), ("mps", "mps")])
def test_a_device_has_a_kind(name, kind):
    assert device_kind(name) == kind


def test_the_fastest_implementation_is_chosen(tiny):
    assert choose_compute(tiny, "cpu", 1).kernel_path == tiny.kernel_paths[0]


def test_workers_share_the_threads(tiny):
    threads = torch.get_num_threads()
    assert choose_compute(tiny, "cpu", 1).threads == threads
    assert choose_compute(tiny, "cpu", 2).threads == max(1, threads // 2)
    assert choose_compute(tiny, "cpu", 10 * threads).threads == 1


def test_it_survives_json(tiny):
    chosen = choose_compute(tiny, "cpu", 1)
    assert ComputeClass.from_json(chosen.to_json()) == chosen


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@given(input_px=st.integers(16, 8192))
def test_at_least_one_slice_is_encoded_at_once_and_a_bounded_number_of_pixels(kind, input_px):
    count = slices_at_once(input_px, kind)
    assert 1 <= count <= 64
    assert count == 1 or count * input_px**2 <= 8 * 1024**2


def test_a_processor_encodes_sams_own_size_one_by_one_and_small_slices_together():
    assert slices_at_once(1024, "cpu") == 1
    assert slices_at_once(256, "cpu") == 8


@given(slice_bytes=st.integers(1, 1 << 40), free_bytes=st.integers(0, 1 << 40))
def test_the_slices_that_fit_take_no_more_than_is_free(slice_bytes, free_bytes):
    count = fitting_slices(slice_bytes, free_bytes)
    assert count >= 1
    assert count & (count - 1) == 0
    assert count == 1 or count * slice_bytes <= 0.8 * free_bytes


def test_twice_the_memory_holds_twice_the_slices():
    assert fitting_slices(1 << 30, 20 << 30) == 2 * fitting_slices(1 << 30, 10 << 30)


def test_a_device_that_is_too_small_is_told_with_numbers_and_a_way_out(tiny):
    message = str(too_small(tiny, torch.device("cpu")))
    assert "tiny at 64 px" in message
    assert "GB free of" in message
    assert "--size 32" in message
    assert "--device cpu" not in message  # it is the processor


def test_the_smaller_size_that_is_proposed_is_one_that_the_encoder_takes():
    message = str(too_small(TINY.load(None, size=48), torch.device("cpu")))
    assert "tiny at 48 px" in message
    assert "--size 16" in message
