"""Images that are no scan of grey slices: captures, colour, mosaics, radiographs, ultrasound."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from .answers import Answer, Answers, Maker, Reason
from .instances import Identity, new_instance, put_pixels, save
from .phantom import SHAPE, phantom
from .series import stored_mr, write_series

__all__ = ["KINDS", "mosaic", "palette", "radiograph", "rgb", "secondary_capture", "ultrasound"]


def secondary_capture(folder: Path, seed: int = 0, *, geometry: bool = False) -> Answers:
    """Screen shots, six of them, burned in; with `geometry` they claim to lie on a regular stack. Refused."""

    def change(k: int, dataset: Dataset) -> None:
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.ConversionType, dataset.BurnedInAnnotation = "WSD", "YES"
        if not geometry:
            del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.FrameOfReferenceUID

    stored = (stored_mr(seed=seed) // 8).clip(0, 255).astype(np.uint8)
    answer = write_series(
        folder,
        seed=seed,
        modality="OT",
        stored=stored,
        ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"],
        change=change,
    )
    return (replace(answer, fate="refused", reason="secondary capture", affine=answer.affine if geometry else None),)


def burned_in(folder: Path, seed: int = 0) -> Answers:
    """A CT series that is good but for BurnedInAnnotation YES: taken, with a warning. Facts: burned_in."""
    answer = write_series(folder, seed=seed, BurnedInAnnotation="YES")
    return (replace(answer, facts={"burned_in": True}),)


def rgb(
    folder: Path, seed: int = 0, *, planar: Literal[0, 1] = 0, photometric: Literal["RGB", "YBR_FULL"] = "RGB"
) -> Answers:
    """A regular stack in colour, by pixel or by plane: taken with three channels, (column, row, slice, 3), in RGB."""
    grey = phantom(seed=seed).hounsfield.astype(np.float64)
    red = np.clip((grey + 1000) / 8, 0, 255)
    colour = np.stack([red, red[::-1], red[:, ::-1]], axis=-1).astype(np.uint8)
    stored = colour if photometric == "RGB" else _luma_and_chroma(colour)

    def change(k: int, dataset: Dataset) -> None:
        put_pixels(dataset, stored[:, :, k], photometric=photometric, planar=planar)

    answer = write_series(folder, seed=seed, modality="MR", stored=stored, photometric=photometric, change=change)
    return (replace(answer, values=colour.astype(np.float64), reason="colour"),)


def _luma_and_chroma(rgb_values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Y, Cb, Cr of PS3.3 C.7.6.3.1.2; back again they differ from the colours by rounding, up to 2."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.clip(np.rint(rgb_values @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def palette(folder: Path, seed: int = 0) -> Answers:
    """A regular stack of indices into a table of 256 colours of 16 bits: a painted map, refused. Values: colours."""
    stored = (stored_mr(seed=seed) // 8).clip(0, 255).astype(np.uint8)
    ramp = np.arange(256)
    tables = {"Red": ramp * 257, "Green": (255 - ramp) * 257, "Blue": (ramp * 7 % 256) * 257}

    def change(k: int, dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for name, table in tables.items():
            dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", table.astype("<u2").tobytes())

    answer = write_series(folder, seed=seed, modality="MR", stored=stored, change=change)
    colours = np.stack(list(tables.values()), axis=-1).astype(np.float64)
    return (replace(answer, values=colours[stored], fate="refused", reason="colour"),)


def mosaic(folder: Path, seed: int = 0, *, volumes: int = 4) -> Answers:
    """Siemens mosaics, one file a time point, whose private header (0029,1010) was stripped: refused.

    Facts: tiles (slices in each file).
    """
    tiles = np.concatenate([np.concatenate(list(np.moveaxis(stored_mr(seed=seed), 2, 0)[:3]), axis=0)] * 2, axis=1)
    stored = np.repeat(tiles[:, :, None], volumes, axis=2)
    answer = write_series(
        folder,
        seed=seed,
        modality="MR",
        stored=stored,
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        positions_mm=np.zeros((volumes, 3)),
    )
    return (replace(answer, fate="refused", reason="mosaic", values=None, affine=None, facts={"tiles": 6}),)


def radiograph(folder: Path, seed: int = 0) -> Answers:
    """One digital radiograph, MONOCHROME1, without position or orientation: one slice, taken without an affine."""
    stored = stored_mr((40, 32, SHAPE[2]), seed=seed)[:, :, 2:3]
    return (
        _single(
            folder / "DX0001",
            Identity(seed=seed),
            stored[:, :, 0],
            sop_class=DigitalXRayImageStorageForPresentation,
            modality="DX",
            photometric="MONOCHROME1",
            values=stored.astype(np.float64),
            ImageType=["ORIGINAL", "PRIMARY"],
            ImagerPixelSpacing=[0.15, 0.15],
            PatientOrientation=["L", "F"],
            PresentationIntentType="FOR PRESENTATION",
        ),
    )


def ultrasound(folder: Path, seed: int = 0, *, frames: int = 5) -> Answers:
    """A loop of ultrasound frames in time, without geometry: refused. Facts: frames. One frame: taken as a picture."""
    stored = (stored_mr(seed=seed)[:, :, :frames] // 8).clip(0, 255).astype(np.uint8)
    loop = frames > 1
    answer = _single(
        folder / "US0001.dcm",
        Identity(seed=seed),
        stored if loop else stored[:, :, 0],
        sop_class=UltrasoundMultiFrameImageStorage if loop else UltrasoundImageStorage,
        modality="US",
        values=stored.astype(np.float64),
        ImageType=["ORIGINAL", "PRIMARY"],
        **({"FrameTime": 40, "FrameIncrementPointer": 0x00181063} if loop else {}),
    )
    return (_refuse(answer, "no geometry", frames=frames) if loop else answer,)


def captured_stack(folder: Path, seed: int = 0) -> Answers:
    """A multi-frame secondary capture: refused."""
    stored = (stored_mr(seed=seed) // 8).clip(0, 255).astype(np.uint8)
    answer = _single(
        folder / "capture.dcm",
        Identity(seed=seed),
        stored,
        sop_class=MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        modality="OT",
        values=stored.astype(np.float64),
        ImageType=["DERIVED", "SECONDARY"],
        ConversionType="WSD",
    )
    return (_refuse(answer, "secondary capture", frames=SHAPE[2]),)


def _single(
    path: Path,
    who: Identity,
    stored: NDArray[Any],
    *,
    sop_class: str,
    modality: str,
    values: NDArray[np.float64],
    photometric: str = "MONOCHROME2",
    **attributes: Any,
) -> Answer:
    dataset = new_instance(who, sop_class=sop_class, modality=modality, **attributes)
    put_pixels(dataset, stored, photometric=photometric)
    return Answer(
        paths=(save(dataset, path),),
        values=values,
        affine=None,
        modality=modality,
        fate="taken",
        inverted=photometric == "MONOCHROME1",
        patient_id=who.patient_id,
        series_uid=who.series_uid,
        study_uid=who.study_uid,
        frame_of_reference_uid="",
        series_number=who.series,
    )


def _refuse(answer: Answer, reason: Reason, **facts: Any) -> Answer:
    return replace(answer, fate="refused", reason=reason, facts=facts)


KINDS: dict[str, Maker] = {
    "secondary capture": secondary_capture,
    "secondary capture with geometry": partial(secondary_capture, geometry=True),
    "multi-frame secondary capture": captured_stack,
    "burned-in annotation": burned_in,
    "rgb by pixel": rgb,
    "rgb by plane": partial(rgb, planar=1),
    "ybr": partial(rgb, photometric="YBR_FULL"),
    "palette": palette,
    "mosaic": mosaic,
    "radiograph": radiograph,
    "ultrasound loop": ultrasound,
    "ultrasound picture": partial(ultrasound, frames=1),
}
