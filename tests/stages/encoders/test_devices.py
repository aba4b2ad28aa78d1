"""Devices that are not there are refused with what to type instead, and "auto" means what the hardware has."""

import pytest
import torch

from samkit.stages.encoders import devices
from samkit.stages.encoders.devices import find_device, gpu_devices, resolve_precision
from samkit.store.errors import DeviceError, UsageError

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture
def without_gpus(monkeypatch):
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def with_two_gpus(monkeypatch):
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 2)


def test_the_processor_is_always_there():
    assert find_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_without_a_gpu_is_refused_with_what_to_type(without_gpus, name):
    with pytest.raises(DeviceError, match=rf"--device {name}: this machine has 0 CUDA devices.*--device cpu"):
        find_device(name)


def test_a_gpu_beyond_the_last_is_refused(with_two_gpus):
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="this machine has 2"):
        find_device("cuda:2")


def test_metal_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="Metal"):
        find_device("mps")


@pytest.mark.parametrize("name", ["gpu", "cpu:cpu", ""])
def test_a_word_that_is_no_device_is_refused(name):
    with pytest.raises(UsageError, match="Give cpu, cuda"):
        find_device(name)


@pytest.mark.parametrize("name", ["xpu", "meta"])
def test_a_kind_of_device_that_samkit_does_not_run_on_is_refused(name):
    with pytest.raises(UsageError, match="runs on cpu, cuda and mps"):
        find_device(name)


def test_gpus_are_named_in_order(with_two_gpus):
    assert gpu_devices(2) == ["cuda:0", "cuda:1"]


def test_more_gpus_than_there_are_are_refused_with_both_numbers(with_two_gpus):
    with pytest.raises(DeviceError, match="--gpus 3: this machine has 2"):
        gpu_devices(3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_named_is_kept(precision):
    assert resolve_precision(precision, CPU) == precision


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_gpu_is_bfloat16_where_the_hardware_has_it(monkeypatch, native, expected):
    monkeypatch.setattr(devices.torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", CUDA) == expected


@pytest.mark.parametrize(("units", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_processor_is_bfloat16_where_it_has_matrix_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {"amx_bf16": units})
    assert resolve_precision("auto", CPU) == expected


def test_another_precision_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="float32, bfloat16, auto"):
        resolve_precision("float16", CPU)
