"""doctor: what this machine has, what it makes of it, and how fast an encoder is on it."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import psutil
import torch

from ...stages.encoders.base import find_encoder
from ...stages.encoders.compute import choose_compute
from ...stages.encoders.devices import find_device, resolve_precision
from ...stages.encoders.measuring import MeasuredPath, measure_paths
from ...stages.encoders.memory import keep_freed_memory
from ...stages.encoders.shelf import WeightsShelf
from ...stages.readers.dicom import missing_codecs
from ...stages.readers.dicom_headers import CODECS
from ...store.places import place_of
from ...store.provenance import code_version
from ...store.workspace import open_workspace
from .. import console
from ..console import readable_bytes
from ..exit_codes import DONE
from .status import status_of
from .weights import weights_file_of

# What a fault is most often of, beside torch.
_LIBRARIES = ("numpy", "zarr", "pydicom", "nibabel", "highdicom", "dask", "segment-anything")
# Instructions that decide how fast an encoder is, by torch's names for them.
_INSTRUCTIONS = {"amx_bf16": "AMX bfloat16", "avx512_bf16": "AVX-512 bfloat16", "avx512_f": "AVX-512", "avx2": "AVX2"}


def run_doctor(
    workspace_path: str,
    *,
    encoder_name: str,
    weights: str | None,
    size: int | None,
    device: str,
    measure: bool,
    as_json: bool,
) -> int:
    """Say what there is; and with ``measure``, time the ways to compute an encoder and say which one `embed` takes."""
    target = find_device(device)
    told: dict[str, Any] = {
        "samkit": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver()) or 'unknown C library'}",
        "processor": _processor(),
        "memory": f"{_gigabytes(psutil.virtual_memory().total)}, {_gigabytes(psutil.virtual_memory().available)} free",
        "gpus": _gpus(),
        "precision": f"auto is {resolve_precision('auto', target)} on {device}",
    }
    told |= {
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "codecs": _codecs(),
        "weights": _weights(),
        "disk": _disk(workspace_path),
    }
    # Before the measurement, for that is what `embed` does.
    told["allocator"] = (
        "glibc: samkit's commands keep freed memory; in a program of your own: samkit.keep_freed_memory()"
        if keep_freed_memory()
        else "not glibc's: left as it is"
    )
    if not as_json:
        console.say("```")  # as a report of a fault shows it, when it is copied there
        for name, what in told.items():
            console.say(f"{name:10} {what}")
        console.say("```")
    if measure:
        measured = _measure(encoder_name, weights, size, device, as_json=as_json)
        told["measured"] = measured
    if as_json:
        console.say(json.dumps(told, indent=1))
    elif not measure:
        console.say("next: samkit doctor --measure --encoder sam_vit_b, for the speed of an encoder on this machine")
    return DONE


def _measure(name: str, weights: str | None, size: int | None, device: str, *, as_json: bool) -> dict[str, Any]:
    model = find_encoder(name)
    # Time does not depend on weights: where none are at hand, a seed's will do.
    file = None if weights is None else weights_file_of(name, weights)
    px = model.default_px if size is None else size
    paths: list[MeasuredPath] = []
    with console.progress_bar("measuring", 4, "ways to compute") as bar:
        for path in measure_paths(model, file, size=size, device=device):
            paths.append(path)
            bar.advance()
    encoder = model.load(file, size=size, device=device, precision="auto")
    chosen = choose_compute(encoder, device, 1)
    precision = encoder.recipe.compute_precision
    rows = [
        [
            path.kernel_path,
            path.compute_precision,
            f"{path.seconds_per_slice:.3g}",
            f"{paths[0].seconds_per_slice / path.seconds_per_slice:.2f}",
            f"{path.error:.0e}" if path.error else "0",
            "embed takes it" if (path.kernel_path, path.compute_precision) == (chosen.kernel_path, precision) else "",
        ]
        for path in paths
    ]
    if not as_json:
        origin = f"weights {weights}" if file is not None else "seeded weights"
        console.table(
            f"{name} at {px} px on {device}, {origin}, {chosen.threads} threads, {chosen.micro_batch} slices at once",
            ["computed by", "precision", "s a slice", "times faster", "error", ""],
            rows,
            numbers_from=2,
        )
    return {"encoder": name, "input_px": px, "chosen": chosen.to_json(), "paths": [asdict(path) for path in paths]}


def _processor() -> str:
    there = torch.cpu.get_capabilities()
    instructions = ", ".join(name for key, name in _INSTRUCTIONS.items() if there.get(key)) or "no vector instructions"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores to use, {torch.get_num_threads()} threads; {instructions}"


def _codecs() -> str:
    """Tell whether every kind of compressed DICOM can be read."""
    missing = missing_codecs()
    if not missing:
        return f"all {len(CODECS)} kinds of compressed DICOM can be read"
    return f"no codec for {', '.join(missing)}: pip install --force-reinstall samkit brings them back"


def _weights() -> str:
    """Tell which checkpoints encoders would find."""
    return "; ".join(
        ["nano (its own)"]
        + [f"{kept.told} ({kept.encoder}, {readable_bytes(kept.size_bytes)})" for kept in WeightsShelf()]
    )


def _disk(workspace_path: str) -> str:
    """Tell the room there is, beside what the workspace's recipes still want."""
    place = place_of(workspace_path)
    free = place.free_bytes()
    room = "no limit that can be told" if free is None else f"{readable_bytes(free)} free"
    if not (place / "workspace.json").exists():
        return f"{room}; no workspace at {workspace_path} yet"
    wanted = []
    for entry in status_of(open_workspace(place))["embeddings"]:
        if entry["missing"] and entry["rows"]:
            size = entry["missing"] * entry["bytes"] // entry["rows"]
            wanted.append(f"{entry['name']} lacks {entry['missing']} rows, {readable_bytes(size)}")
    return f"{room} at {workspace_path}; {'; '.join(wanted) or 'no row is missing'}"


def _gpus() -> str:
    names = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        names.append(
            f"cuda:{index} {torch.cuda.get_device_name(index)}, {_gigabytes(free)} of {_gigabytes(total)} free"
        )
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        names.append("mps")
    return "; ".join(names) or "none that torch can use"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
