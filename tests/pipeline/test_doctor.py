"""`samkit doctor` says what the machine has, and with --measure which way to compute is the fastest here."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
import torch

SMALL = ("--measure", "--encoder", "nano", "--size", "64")


@pytest.fixture(scope="module")
def measured(request):
    """What the measurement says, as JSON; taken once."""
    from samkit.pipeline.commands.doctor import _measure

    return _measure("nano", None, 64, "cpu", as_json=True)


def test_it_names_what_a_report_of_a_fault_needs(samkit):
    ended = samkit("doctor")
    assert ended.code == 0
    for part in (f"samkit {version('samkit')}", torch.__version__, "python", "processor", "memory", "allocator"):
        assert part in ended.said, part


def test_it_names_codecs_weights_and_room(samkit, job):
    told = json.loads(samkit("doctor", "--json", *job.flag).out)
    assert told["codecs"] == "all 12 kinds of compressed DICOM can be read"
    assert told["weights"] == "nano (its own)"
    assert "no row is missing" in told["disk"]


def test_it_says_what_the_recipes_of_a_workspace_still_want(samkit, job, write_pair):
    write_pair(job.workspace.parent / "more", "late", label=False)
    assert samkit("ingest", job.workspace.parent / "more", *job.flag).code == 0
    assert "lacks 4 rows" in json.loads(samkit("doctor", "--json", *job.flag).out)["disk"]


def test_a_codec_that_is_not_there_is_named(monkeypatch):
    from samkit.pipeline.commands import doctor

    monkeypatch.setattr(doctor, "missing_codecs", lambda: ["JPEG 2000 Image Compression"])
    assert doctor._codecs().startswith("no codec for JPEG 2000 Image Compression: pip install")


def test_it_can_be_copied_into_a_report_as_it_stands(samkit):
    lines = samkit("doctor").out.splitlines()
    assert lines[0] == "```"
    assert lines.count("```") == 2


def test_it_says_what_auto_means(samkit):
    from samkit.stages.encoders.devices import resolve_precision

    assert f"auto is {resolve_precision('auto', torch.device('cpu'))} on cpu" in samkit("doctor").said


def test_it_says_what_to_type_next(samkit):
    assert "next: samkit doctor --measure" in samkit("doctor").said


def test_json_is_all_there_is_on_standard_output(samkit):
    told = json.loads(samkit("doctor", "--json").out)
    assert told["torch"] == torch.__version__
    assert "measured" not in told


def test_a_measurement_marks_what_embed_takes(samkit):
    lines = [line for line in samkit("doctor", *SMALL).out.splitlines() if "embed takes it" in line]
    assert len(lines) == 1
    assert "samkit-1" in lines[0]


def test_every_way_to_compute_is_measured(measured):
    ways = {(path["kernel_path"], path["compute_precision"]) for path in measured["paths"]}
    assert ways == {(path, kind) for path in ("samkit-1", "package") for kind in ("float32", "bfloat16")}


def test_the_reference_comes_first_and_has_no_error(measured):
    first = measured["paths"][0]
    assert (first["kernel_path"], first["compute_precision"], first["error"]) == ("package", "float32", 0.0)


def test_errors_are_within_what_recipes_state(measured):
    for path in measured["paths"]:
        assert path["error"] < (1e-5 if path["compute_precision"] == "float32" else 1.5e-2)


def test_a_device_that_is_not_there_is_refused(samkit):
    ended = samkit("doctor", "--device", "cuda:99")
    assert ended.code == 1
    assert "cuda:99" in ended.said
