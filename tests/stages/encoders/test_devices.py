"""Devices that are not there are refused with what to type instead, and "auto" means what the hardware has."""

import pytest
import torch

from samkit.stages.encoders import devices
from samkit.stages.encoders.devices import find_device, gpu_devices, resolve_precision, usable_cores
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


@pytest.mark.parametrize(
    ("asked", "named"),
    [("1", ["cuda:0"]), ("2", ["cuda:0", "cuda:1"]), ("0,1", ["cuda:0", "cuda:1"]), ("1, 0", ["cuda:1", "cuda:0"])],
)
def test_gpus_are_so_many_or_these(with_two_gpus, asked, named):
    assert gpu_devices(asked) == named


@pytest.mark.parametrize("asked", ["3", "0,2", "1000000000000"])
def test_gpus_that_are_not_there_are_refused_with_both_numbers(with_two_gpus, asked):
    with pytest.raises(DeviceError, match=rf"--gpus {asked}: this machine has 2 CUDA devices that torch can use"):
        gpu_devices(asked)


def test_without_gpus_the_processor_is_offered(without_gpus):
    with pytest.raises(DeviceError, match=r"--gpus 0,2: this machine has 0 CUDA devices.*--device cpu"):
        gpu_devices("0,2")


def test_a_gpu_is_named_once(with_two_gpus):
    with pytest.raises(UsageError, match="--gpus 0,1,0: names GPU 0 twice"):
        gpu_devices("0,1,0")


def test_no_gpu_at_all_is_refused_with_how_one_is_named(with_two_gpus):
    with pytest.raises(UsageError, match=r"--gpus 0: a number alone is how many.*--device cuda:0"):
        gpu_devices("0")


@pytest.mark.parametrize("asked", ["-1", "0,-1", "all", "1.5", "", "0,", ",", "cuda:0", "٣"])
def test_what_is_neither_a_number_of_gpus_nor_a_list_is_refused(with_two_gpus, asked):
    with pytest.raises(UsageError, match=r"give how many \(2: the first two\), or which"):
        gpu_devices(asked)


def test_it_is_said_that_torch_was_built_without_cuda(without_gpus, monkeypatch):
    monkeypatch.setattr(devices.torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"torch \S+ was built without CUDA"):
        find_device("cuda")


def test_it_is_said_that_gpus_are_hidden(with_two_gpus, monkeypatch):
    monkeypatch.setattr(devices.torch.version, "cuda", "12.6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES is '4,5', and they are numbered from 0 among these"):
        gpu_devices("4,5")


class TestUsableCores:
    @pytest.fixture
    def bound_to_eight(self, monkeypatch):
        monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(self, folder, **files):
        for name, content in files.items():
            path = folder / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)

    def test_are_those_that_the_process_is_bound_to(self, bound_to_eight, tmp_path):
        assert usable_cores(tmp_path) == 8

    @pytest.mark.parametrize(
        ("limit", "cores"),
        [("max 100000", 8), ("400000 100000", 4), ("150000 100000", 2), ("10000 100000", 1), ("1600000 100000", 8)],
    )
    def test_are_no_more_than_a_container_has(self, bound_to_eight, tmp_path, limit, cores):
        self.write(tmp_path, cpu_dot_max=f"{limit}\n")
        assert usable_cores(tmp_path) == cores

    @pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
    def test_are_no_more_than_an_older_container_has(self, bound_to_eight, tmp_path, quota, cores):
        self.write(tmp_path, **{"cpu__cpu_dot_cfs_quota_us": quota, "cpu__cpu_dot_cfs_period_us": "100000"})
        assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_named_is_kept(precision):
    assert resolve_precision(precision, CPU) == precision


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_gpu_is_bfloat16_where_the_hardware_has_it(monkeypatch, native, expected):
    monkeypatch.setattr(devices.torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", CUDA) == expected


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_on_a_processor_is_bfloat16_where_it_has_instructions_for_it(monkeypatch, able, expected):
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: able)
    assert resolve_precision("auto", CPU) == expected


def test_another_precision_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="float32, bfloat16, auto"):
        resolve_precision("float16", CPU)


# Convolutions ----------------------------------------------------------------------------------------------------


def test_float32_is_not_rounded_by_convolutions_of_a_gpu_inside_the_block():
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    with pytest.raises(LookupError), devices.ieee_convolutions():
        assert convolutions.fp32_precision == "ieee"
        raise LookupError
    assert convolutions.fp32_precision == before


def test_a_torch_without_precisions_of_each_kind_is_told_in_its_words(monkeypatch):
    monkeypatch.delattr(type(torch.backends.cudnn), "conv")
    before = torch.backends.cudnn.allow_tf32
    with devices.ieee_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
