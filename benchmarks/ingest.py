"""Ingest of 20 CT series of 300 slices of 512 x 512, beside dcm2niix, nibabel and the same window; and peak memory.

The peer is what people chain today: `dcm2niix -z n` writes NIfTI, Python loads each file with nibabel and brings it
to float16 in [0, 1] by the window. samkit does the same to a verified store (checksums, compression, fsync). Both are
whole processes on the same files, start-ups included, the files in the page cache. Memory: one series of 800 slices
beside its size as int16; the peak of a tiny series, which is Python and its libraries, is given apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import SAMKIT, cost_of, keep
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES, SLICES, SIDE = 20, 300, 512
TALL = 800
ROUNDS = 3
WINDOW = "400/40"

# The peer's second half, as a script of its own: load, window, float16.
LOAD_AND_NORMALISE = """
import sys
from pathlib import Path
import nibabel, numpy as np
for path in sorted(Path(sys.argv[1]).glob("*.nii")):
    values = np.asanyarray(nibabel.load(path).dataobj).astype(np.float32)
    np.clip((values + 160) / 400, 0, 1).astype(np.float16)
"""


def write_series(folder: Path, slices: int, seed: int) -> None:
    """Write a CT of smooth shapes and noise: one file a slice, uncompressed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = np.where(x**2 / 0.6 + y**2 / 0.35 < 1, 40.0, -1000.0)
    noise = rng.normal(0, 12, (8, SIDE, SIDE))
    uid, frame = generate_uid(), generate_uid()
    for k in range(slices):
        organ = (x - 0.3 * np.sin(k / 40 + seed)) ** 2 + (y - 0.2 * np.cos(k / 30)) ** 2 < 0.04
        values = np.where(body > 0, body + 80 * organ + noise[k % 8], body).astype("<i2")
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        plane = Dataset()
        plane.file_meta = meta
        plane.SOPClassUID, plane.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        plane.StudyInstanceUID, plane.SeriesInstanceUID, plane.FrameOfReferenceUID = uid, uid, frame
        plane.PatientID, plane.Modality, plane.SeriesNumber = f"bench{seed}", "CT", seed + 1
        plane.InstanceNumber = k + 1
        plane.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        plane.ImagePositionPatient = [-200.0, -200.0, float(k)]
        plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        plane.PixelSpacing, plane.SliceThickness = [0.78, 0.78], 1.0
        plane.Rows = plane.Columns = SIDE
        plane.SamplesPerPixel, plane.PhotometricInterpretation = 1, "MONOCHROME2"
        plane.BitsAllocated, plane.BitsStored, plane.HighBit, plane.PixelRepresentation = 16, 16, 15, 1
        plane.RescaleSlope, plane.RescaleIntercept = 1, 0
        plane.PixelData = values.tobytes()
        plane.save_as(folder / f"IM{k:04d}.dcm", enforce_file_format=True)


def by_peer(source: Path, scratch: Path) -> float:
    """Return the seconds of dcm2niix, then nibabel and the window."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    started = time.perf_counter()
    converter = [shutil.which("dcm2niix") or "dcm2niix", "-z", "n", "-b", "n", "-o", scratch, source]
    subprocess.run(converter, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", LOAD_AND_NORMALISE, str(scratch)], check=True)
    seconds = time.perf_counter() - started
    shutil.rmtree(scratch)
    return seconds


def by_samkit(source: Path, workspace: Path, *, cores: set[int] | None = None) -> tuple[float, int]:
    """Return seconds and peak memory of `samkit ingest` into a new workspace, on these cores only."""
    shutil.rmtree(workspace, ignore_errors=True)
    pinned = [] if cores is None else ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))]
    cost = cost_of([*pinned, *SAMKIT, "ingest", source, "--window", WINDOW, "--workspace", workspace])
    shutil.rmtree(workspace)
    return cost.seconds, cost.peak_memory_bytes


def main() -> None:
    """Measure and keep."""
    with tempfile.TemporaryDirectory() as folder:
        source, workspace = Path(folder) / "source", Path(folder) / "workspace"
        for number in range(SERIES):
            write_series(source / f"series{number:02d}", SLICES, number)
        os.sync()
        one, two = set(sorted(os.sched_getaffinity(0))[:1]), set(sorted(os.sched_getaffinity(0))[:2])
        seconds: dict[str, list[float]] = {"peer": [], "samkit": [], "one": [], "two": []}
        for _ in range(ROUNDS):
            seconds["peer"].append(by_peer(source, Path(folder) / "nifti"))
            seconds["samkit"].append(by_samkit(source, workspace)[0])
            seconds["one"].append(by_samkit(source, workspace, cores=one)[0])
            seconds["two"].append(by_samkit(source, workspace, cores=two)[0])
        shutil.rmtree(source)
        write_series(source / "tall", TALL, 0)
        tall_bytes = by_samkit(source, workspace)[1]
        shutil.rmtree(source)
        write_series(source / "tiny", 4, 0)
        tiny_bytes = by_samkit(source, workspace)[1]
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    rate = float(np.median([a / b for a, b in zip(seconds["peer"], seconds["samkit"], strict=True)]))
    speed_up = float(np.median([a / b for a, b in zip(seconds["one"], seconds["two"], strict=True)]))
    int16_bytes = TALL * SIDE * SIDE * 2
    rows = [
        ["dcm2niix -z n, nibabel, window", f"{middle['peer']:.1f}", "1"],
        ["samkit ingest", f"{middle['samkit']:.1f}", f"{rate:.2f}"],
        ["samkit ingest, on one core", f"{middle['one']:.1f}", ""],
        ["samkit ingest, on two cores", f"{middle['two']:.1f}", f"{speed_up:.2f} of one"],
        [f"peak memory of {TALL} slices, in int16 sizes", f"{tall_bytes / int16_bytes:.2f}", "target 3"],
        ["peak memory of 4 slices, MB", f"{tiny_bytes / 1e6:.0f}", ""],
    ]
    numbers = {
        "seconds": seconds,
        "rate_to_peer": rate,
        "target_rate": 0.5,
        "two_cores_to_one": speed_up,
        "target_speed_up": 1.6,
        "peak_bytes_of_800_slices": tall_bytes,
        "int16_bytes_of_800_slices": int16_bytes,
        "peak_bytes_of_4_slices": tiny_bytes,
    }
    title = f"Ingest of {SERIES} series of {SLICES} slices of {SIDE} x {SIDE}, median of {ROUNDS} rounds"
    keep("ingest", title, ["what", "seconds", "rate"], rows, numbers)


if __name__ == "__main__":
    main()
