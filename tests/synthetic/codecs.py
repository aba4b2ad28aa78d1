"""Compressed files, and damaged ones.

pydicom encodes RLE and JPEG-LS; GDCM encodes JPEG and JPEG 2000, of which only the code stream is taken: its writer
changes other attributes. The source of all truth is the uncompressed answer that is compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import gdcm
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from .answers import Answer, Answers, Maker
from .enhanced import enhanced
from .instances import OBLIQUE
from .series import PLAIN, stored_mr, write_series

__all__ = [
    "COMPRESSED",
    "DAMAGED",
    "LOSSLESS",
    "compress",
    "compress_file",
    "corrupt_stream",
    "crashing",
    "cut_file",
    "cut_pixels",
]

LOSSLESS = {
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg 2000": JPEG2000Lossless,
    "jpeg lossless": JPEGLosslessSV1,
}
_BY_GDCM = {
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGBaseline8Bit: gdcm.TransferSyntax.JPEGBaselineProcess1,
}


def compress_file(source: Path, target: Path, syntax: str) -> Path:
    """Write a compressed copy, every attribute but the pixels as it was (but for what a syntax demands of them)."""
    dataset = dcmread(source, force=True)
    if syntax in _BY_GDCM:
        encoded = _encoded_by_gdcm(source, _BY_GDCM[UID(syntax)])
        dataset.PixelData = encapsulate(list(generate_frames(encoded.PixelData, number_of_frames=_frames(dataset))))
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.PhotometricInterpretation = encoded.PhotometricInterpretation
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target, enforce_file_format=True)
    return target


def compress(answer: Answer, folder: Path, syntax: str) -> Answer:
    """Write a compressed copy of a series into another folder; values, affine and UIDs stay."""
    return replace(answer, paths=tuple(compress_file(path, folder / path.name, syntax) for path in answer.paths))


def _encoded_by_gdcm(source: Path, syntax: int) -> Dataset:
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    with TemporaryDirectory() as folder:
        target = Path(folder) / "encoded"
        ok = reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        ok = ok and change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(target))
        if not (ok and writer.Write()):
            message = f"GDCM could not encode {source} in transfer syntax {syntax}"
            raise RuntimeError(message)
        return dcmread(target)


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames", 1))


# --- damage, in place ---


def cut_file(path: Path, *, keep: float = 0.7) -> None:
    """Cut a file off, as a broken copy does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def cut_pixels(path: Path, *, keep: float = 0.5) -> None:
    """Leave a well-formed file with fewer pixels than its rows and columns promise."""
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[: int(len(dataset.PixelData) * keep) // 2 * 2]
    dataset.save_as(path)


def corrupt_stream(path: Path, *, start: float = 0.0, seed: int = 0) -> None:
    """Overwrite a code stream with noise; the file around it stays well-formed.

    From the start on, no decoder makes anything of it (but see `crashing`). From the middle on, RLE and lossless JPEG
    decode into nonsense without a complaint.
    """
    random = np.random.default_rng(seed)
    dataset = dcmread(path)
    frames = [bytearray(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=_frames(dataset))]
    for frame in frames:
        first = 4 + int(len(frame) * start)
        frame[first:] = random.integers(0, 255, len(frame) - first, dtype=np.uint8).tobytes()
    dataset.PixelData = encapsulate([bytes(frame) for frame in frames])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def empty_stream(path: Path) -> None:
    """Leave one fragment without a byte."""
    dataset = dcmread(path)
    dataset.PixelData = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 2
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def foreign_syntax(path: Path, *, syntax: str = "1.2.840.10008.1.2.4.102") -> None:
    """Name a transfer syntax that is no still image (by default MPEG-4), the pixels being anything."""
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([b"\x00\x00\x01\xb0" * 16])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(path)


def no_pixels(path: Path) -> None:
    """Remove the pixels."""
    dataset = dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)


# --- by name ---


def _compressed(folder: Path, seed: int, *, syntax: str, source: Callable[[Path, int], Answers]) -> Answers:
    with TemporaryDirectory() as plain:
        return tuple(compress(answer, folder, syntax) for answer in source(Path(plain), seed))


def _lossy(folder: Path, seed: int) -> Answers:
    """JPEG baseline, 8 bits: values within 12 of the truth. Facts: within."""

    def bytes_of_mr(plain: Path, seed: int) -> Answers:
        stored = (stored_mr(seed=seed) // 8).clip(0, 255).astype(np.uint8)
        return (write_series(plain, seed=seed, modality="MR", stored=stored, LossyImageCompression="01"),)

    (answer,) = _compressed(folder, seed, syntax=JPEGBaseline8Bit, source=bytes_of_mr)
    return (replace(answer, facts={"within": 12}),)


def _damaged(folder: Path, seed: int, *, damage: Callable[[Path], None], syntax: str | None = None) -> Answers:
    """One file of six is damaged: refused. Facts: file."""
    source = PLAIN["ct"]
    (answer,) = source(folder, seed) if syntax is None else _compressed(folder, seed, syntax=syntax, source=source)
    damage(answer.paths[2])
    return (replace(answer, fate="refused", reason="damaged", facts={"file": answer.paths[2]}),)


def _enhanced(folder: Path, seed: int) -> Answers:
    return (enhanced(folder, seed, affine_lps=OBLIQUE, slope=1.35, order=(4, 0, 3, 5, 1, 2)),)


COMPRESSED: dict[str, Maker] = {
    **{f"ct {name}": partial(_compressed, syntax=uid, source=PLAIN["ct"]) for name, uid in LOSSLESS.items()},
    **{
        f"unsigned {name}": partial(_compressed, syntax=uid, source=PLAIN["slopes of a Philips mr"])
        for name, uid in LOSSLESS.items()
    },
    **{
        f"twelve bits {name}": partial(_compressed, syntax=uid, source=PLAIN["twelve bits"])
        for name, uid in LOSSLESS.items()
    },
    **{f"enhanced {name}": partial(_compressed, syntax=uid, source=_enhanced) for name, uid in LOSSLESS.items()},
    "jpeg baseline": _lossy,
}
"""Every one holds the values of its uncompressed source (JPEG baseline: within its fact)."""

DAMAGED: dict[str, Maker] = {
    "file cut off": partial(_damaged, damage=cut_file),
    "header cut off": partial(_damaged, damage=partial(cut_file, keep=0.2)),
    "pixels cut short": partial(_damaged, damage=cut_pixels),
    "no pixels": partial(_damaged, damage=no_pixels),
    "compressed file cut off": partial(_damaged, damage=cut_file, syntax=RLELossless),
    "corrupt rle stream": partial(_damaged, damage=corrupt_stream, syntax=RLELossless),
    "corrupt jpeg-ls stream": partial(_damaged, damage=corrupt_stream, syntax=JPEGLSLossless),
    "corrupt jpeg 2000 stream": partial(_damaged, damage=partial(corrupt_stream, start=0.25), syntax=JPEG2000Lossless),
    "corrupt jpeg lossless stream": partial(_damaged, damage=corrupt_stream, syntax=JPEGLosslessSV1),
    "empty code stream": partial(_damaged, damage=empty_stream, syntax=JPEG2000Lossless),
    "no still image": partial(_damaged, damage=foreign_syntax),
}


def crashing(folder: Path, seed: int = 0) -> Answers:
    """One file of six whose JPEG 2000 stream makes GDCM 3.2.6 end the process (std::terminate): refused. Facts: file.

    Not in `DAMAGED`: whoever decodes it in the process of the tests ends them too.
    """
    return _damaged(folder, seed, damage=corrupt_stream, syntax=JPEG2000Lossless)
