"""From voxel values to [0, 1]: a window, percentiles of the volume, or the range of a picture. Pure functions.

Conventions: slices are float16 in [0, 1]. The scale belongs to the whole volume and is never chosen by slice, and there
is no min-max after a window: equal tissue has equal values in all slices (and, for CT, in all volumes). Every channel
has a scale of its own: three windows make three channels of one grey volume; the channels of a colour picture share
one scale, so that hues stay. Nothing here holds a second copy of a volume.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from ...store.errors import UnusableVoxels, UsageError, WindowNeeded
from .histogram import BLOCK_VOXELS, Extent, Measured, is_padding
from .windows import CHANNEL_COUNTS, WINDOWS, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from .histogram import Numbers

__all__ = [
    "Chosen",
    "Intensity",
    "IntensityRule",
    "NonFinite",
    "Normaliser",
    "Window",
    "choose_intensities",
    "looks_like_hounsfield",
    "normalise",
]

IntensityRule = Literal["auto", "percentiles", "full-range"]

NonFinite = Literal["refuse", "lowest"]
"""What becomes of NaN and infinities: the volume is refused, or they are shown as the lowest value, 0."""

# MedSAM's pre_CT_MR.py takes 0.5 and 99.5 for all that is not CT, as nnU-Net does for its clipping.
PERCENTILES = (0.5, 99.5)

# MedSAM takes "> 0", which fails on signed data; the minimum is where scanners and skull stripping put "outside".
# Where high values are dark, "outside" is the maximum.
FOREGROUND = "finite voxels above the volume's minimum"
FOREGROUND_INVERTED = "finite voxels below the volume's maximum"
WITHOUT_PADDING = ", padding left out"

# Of a picture of 8 bits.
_FULL_RANGE = (0.0, 255.0)

# What a span must be in float32, in which values are scaled.
_LEAST_SPAN = float(np.finfo(np.float32).smallest_subnormal)
_LARGEST_SPAN = float(np.finfo(np.float32).max)

# Modalities of DICOM whose values may be Hounsfield units: OT, other, is what converted files say.
_MAY_BE_HOUNSFIELD = ("CT", "OT")
_AIR_HU = -500  # air is -1000, lung about -800, fat about -100: nothing of MR lies here by itself
_AIR_SHARE = 1e-3  # of all voxels: one bad voxel, or ringing of an interpolated MR (seen: -144), is not air
_TISSUE_HU = 100  # contrast, organs at the upper end, any bone
_BELOW_AIR_HU = -1200  # HU end at -1000, with noise; MR phase images go on to -4096
_BELOW_AIR_SHARE = 0.01
_METAL_HU = 4000  # 99.5 % of the voxels of a CT lie below; MR of some vendors does not

# Most label maps have a dozen values or fewer, pictures of 8 bits some 200.
_MOST_LABELS = 32
_LISTED = 6

# Soft tissue alone spans 100 HU, a quarter of its window; images already scaled to [0, 1] span 0.3 % of it.
_LEAST_COVERED = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Intensity:
    """How a channel's values become [0, 1]: ``low`` and below is 0, ``high`` and above is 1, linear between."""

    rule: Literal["window", "percentiles", "full-range"]
    low: float
    """In the image's own units (Hounsfield units for a window)."""
    high: float
    percentiles: tuple[float, float] | None = None
    """Which percentiles ``low`` and ``high`` are; None for other rules."""
    foreground: str | None = None
    """Of which voxels; None for other rules."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and text."""
        return {
            "rule": self.rule,
            "low": self.low,
            "high": self.high,
            "percentiles": None if self.percentiles is None else list(self.percentiles),
            "foreground": self.foreground,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Intensity:
        """Return the intensity that `to_json` described."""
        given = stored["percentiles"]
        return cls(
            rule=stored["rule"],
            low=stored["low"],
            high=stored["high"],
            percentiles=None if given is None else (given[0], given[1]),
            foreground=stored["foreground"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The scale of a volume, and what the user should know of the choice."""

    intensities: tuple[Intensity, ...]
    """One a channel of the slices."""
    notes: tuple[str, ...] = ()
    """One sentence each; numbers only, nothing of a header."""


# -- choosing --------------------------------------------------------------------------------------


def looks_like_hounsfield(values: Numbers, modality: str | None, *, padding: tuple[float, float] | None = None) -> bool:
    """Tell whether values are CT numbers, so that an intensity window must be named.

    A modality that is known decides: "CT" is, anything else is not. Otherwise the values do, all of:
    at least one voxel in a thousand at -500 or below (air), a maximum of 100 or more (contrast, bone), 99.5 % of the
    voxels at 4000 or below, and, the minimum (padding: -1024, -2000, -3024) left out, at most 1 % below -1200, which
    no tissue reaches but phase images do. A CT crop without any air is not recognised: name its modality or window.

    Parameters
    ----------
    values
        Any shape; NaN and infinities are ignored.
    modality
        "CT", "MR", "PT", ...; None where unknown.
    padding
        From and to which value a voxel is padding; such voxels are ignored.
    """
    if modality is not None:
        return modality.upper() == "CT"
    measured = Measured(values=values, padding=padding)
    return _hounsfield_by_value(measured, measured.extent())


def choose_intensities(
    values: Numbers,
    modality: str | None,
    windows: Sequence[Window],
    rule: IntensityRule,
    *,
    padding: tuple[float, float] | None = None,
    inverted: bool = False,
    non_finite: NonFinite = "refuse",
    place: str = "the volume",
) -> Chosen:
    """Choose the scale of one volume, reading it in blocks.

    Parameters
    ----------
    values
        (i, j, k), or (i, j, k, 1 or 3 channels): the whole volume, in the image's own units.
    modality
        "CT", "MR", ...; None where unknown, and then the values tell (`looks_like_hounsfield`).
    windows
        None, one, or one for each of three channels; used for whatever grey volume they are given for.
    rule
        "auto": the windows if there are any, but not for MR and colour, which a note says; else 0 to 255 for colour
        of 8 bits and for a single grey plane of 8 bits of no modality (a PNG or JPEG); else percentiles, except that a
        CT must name its window.
        "percentiles": percentiles, also for CT. "full-range": 0 to 255, for 8 bits only.
    padding
        From and to which value (both included) a voxel was never measured; such voxels count for nothing.
    inverted
        Whether high values are dark: then the background is the maximum, not the minimum.
    non_finite
        Whether NaN and infinities are refused or taken for the lowest value.
    place
        The volume's name, for messages.

    Returns
    -------
    Chosen
        The windows' bounds; or (0, 255); or the 0.5 and 99.5 percentiles of the finite voxels above the volume's
        minimum (all channels of a colour volume together). Where these two coincide (a mask, a few grey levels) the
        volume's minimum and maximum are taken.

    Raises
    ------
    UnusableVoxels
        Nothing but padding; NaN or infinite values; a constant volume; one that lies wholly outside all windows;
        colour of other than 1 or 3 channels; "full-range" for other than 8 bits.
    WindowNeeded
        A CT, rule "auto", and no window.
    UsageError
        Both a window and a rule; another number of windows than 1 or 3.
    """
    if windows and rule != "auto":
        given = ",".join(str(window) for window in windows)
        message = f"--window {given} and --intensity {rule} exclude each other; give one of them."
        raise UsageError(message)
    if windows and len(windows) not in CHANNEL_COUNTS:
        message = f"{len(windows)} windows were given, and a slice has 1 or 3 channels; give one window, or three."
        raise UsageError(message)
    aside: tuple[str, ...] = ()
    if windows and modality is not None and modality.upper() not in _MAY_BE_HOUNSFIELD:
        # In a folder of both, as of PET and CT, a window is for the CT: others have no Hounsfield units.
        aside = (f"modality {modality}, no CT: the window is left aside, and its own percentiles are its scale",)
        windows = ()
    channels = _channels(values, place)
    if windows and channels > 1:  # a colour-coded map among CTs, say
        aside = ("a picture in colour: the window is left aside, and its colours are taken as they are",)
        windows = ()
    measured = Measured(values=values, padding=padding)
    extent = measured.extent()
    _check_measured(measured, extent, non_finite, place)
    notes = (*aside, *_non_finite_notes(extent), *_label_map_notes(measured, channels))
    if windows:
        notes += (*_check_windows(windows, extent, place), *_no_hounsfield_notes(extent))
        bounds = tuple(Intensity(rule="window", low=window.low, high=window.high) for window in windows)
        return Chosen(intensities=bounds, notes=notes)
    bytes_of_picture = values.dtype == np.uint8 and (channels > 1 or (modality is None and values.shape[2:3] == (1,)))
    if rule == "full-range" or (rule == "auto" and bytes_of_picture):
        return Chosen(intensities=(_full_range(values, extent, place),) * channels, notes=notes)
    if rule == "auto" and channels == 1:
        by_modality = modality is not None and modality.upper() == "CT"
        if by_modality or (modality is None and _hounsfield_by_value(measured, extent)):
            raise WindowNeeded(_window_needed(place, modality, extent))
    scale = _by_percentiles(measured, extent, place, inverted=inverted)
    return Chosen(intensities=(scale,) * channels, notes=notes)


def _channels(values: Numbers, place: str) -> int:
    channels = values.shape[3] if values.ndim == 4 else 1
    if channels not in CHANNEL_COUNTS:
        message = (
            f"{place}: {channels} channels a voxel, and a slice has 1 (grey) or 3 (red, green, blue). "
            f"Write the image without transparency or other channels."
        )
        raise UnusableVoxels(message)
    return channels


def _check_measured(measured: Measured, extent: Extent, non_finite: NonFinite, place: str) -> None:
    """Refuse what cannot be scaled."""
    size = measured.values.size
    if extent.not_finite and non_finite == "refuse":
        message = (
            f"{place}: {extent.nan} NaN and {extent.positive_infinite + extent.negative_infinite} infinite "
            f"({extent.positive_infinite} of them positive, {extent.negative_infinite} negative) of {size} voxels, the "
            f"first at index {_first_not_finite(measured.values)}. A resampling or division step probably left them; "
            f"write a number there, e.g. numpy.nan_to_num(image), or ingest with --non-finite lowest to take them for "
            f"the volume's lowest value (black)."
        )
        raise UnusableVoxels(message)
    if not extent.measured:
        what = (
            f"padding ({measured.padding[0]:g} to {measured.padding[1]:g})" if measured.padding else "without a value"
        )
        if extent.not_finite:
            what = "NaN, infinite or padding" if extent.padded else "NaN or infinite"
        message = (
            f"{place}: all {size} voxels are {what}; nothing was measured. "
            f"The file is probably an empty export: look at it in a viewer, and leave it out."
        )
        raise UnusableVoxels(message)
    if extent.lowest == extent.highest:
        which = f"{size}" if extent.measured == size else f"{extent.measured} measured"
        message = (
            f"{place}: all {which} voxels have the value {extent.lowest:g}; there is nothing to see. "
            f"The file is probably an empty export: look at it in a viewer, and leave it out."
        )
        raise UnusableVoxels(message)


def _first_not_finite(values: Numbers) -> tuple[int, ...]:
    """Return the first index in the order (i, j, k), looked for by planes of constant i."""
    for i, plane in enumerate(values):
        finite = np.isfinite(plane)
        if not finite.all():
            return (i, *(int(index) for index in np.unravel_index(np.argmin(finite), plane.shape)))
    message = "all values are finite"
    raise ValueError(message)


def _non_finite_notes(extent: Extent) -> tuple[str, ...]:
    if not extent.not_finite:
        return ()
    counts = (
        (extent.nan, "NaN"),
        (extent.positive_infinite, "+infinity"),
        (extent.negative_infinite, "-infinity"),
    )
    told = ", ".join(f"{count} {name}" for count, name in counts if count)
    return (f"voxels that are not finite are taken for the lowest value and shown as 0: {told}",)


def _label_map_notes(measured: Measured, channels: int) -> tuple[str, ...]:
    """Say that an image may be a label that no rule of names has found."""
    values = measured.whole_numbers(_MOST_LABELS) if channels == 1 else None
    if values is None:
        return ()
    listed = ", ".join(str(value) for value in (values if len(values) <= _LISTED else values[: _LISTED - 1]))
    more = f", ... {values[-1]}" if len(values) > _LISTED else ""
    return (
        f"only {len(values)} different values ({listed}{more}), as label maps have: if it is one, `samkit remove` it "
        f"and name the file after its image with _seg behind",
    )


def _check_windows(windows: Sequence[Window], extent: Extent, place: str) -> tuple[str, ...]:
    """Return a note for each window that shows nothing; refuse where none shows anything."""
    blind = [reason for window in windows if (reason := _blind(window, extent)) is not None]
    if len(blind) == len(windows):
        message = (
            f"{place}: its values ({extent.lowest:g} to {extent.highest:g}) {'; '.join(blind)}. Is it a CT in "
            f"Hounsfield units? Without --window, or with --intensity percentiles, the values choose their own scale."
        )
        raise UnusableVoxels(message)
    return tuple(f"its values ({extent.lowest:g} to {extent.highest:g}) {reason}" for reason in blind)


def _no_hounsfield_notes(extent: Extent) -> tuple[str, ...]:
    """Say that what a window is for may be no CT, or one whose intercept got lost on the way to another format."""
    if extent.lowest < 0:
        return ()
    return (
        f"none of its values ({extent.lowest:g} to {extent.highest:g}) is below 0, as fat and air are in Hounsfield "
        f"units, in which a window is given: is it no CT, or one without its rescale intercept?",
    )


def _blind(window: Window, extent: Extent) -> str | None:
    """Return why a window shows next to nothing of a range; None where it does."""
    told = f"the window {window} ({window.low:g} to {window.high:g})"
    if extent.lowest >= window.high or extent.highest <= window.low:
        return f"lie outside {told}, so nothing would be visible in it"
    covered = min(extent.highest, window.high) - max(extent.lowest, window.low)
    if covered < _LEAST_COVERED * window.width:
        return f"cover {100 * covered / window.width:.1g} % of {told}, so it would be one flat grey"
    return None


def _full_range(values: Numbers, extent: Extent, place: str) -> Intensity:
    if values.dtype != np.uint8:
        message = (
            f"{place}: --intensity full-range is for pictures of 8 bits (0 to 255), and this image has {values.dtype} "
            f"values ({extent.lowest:g} to {extent.highest:g}). Use --intensity percentiles."
        )
        raise UnusableVoxels(message)
    low, high = _FULL_RANGE
    if extent.highest - extent.lowest < _LEAST_COVERED * (high - low):
        message = (
            f"{place}: its values go from {extent.lowest:g} to {extent.highest:g} only, of 0 to 255, so it would be "
            f"one flat grey. Is it a label map? With --intensity percentiles it is scaled by its own values."
        )
        raise UnusableVoxels(message)
    return Intensity(rule="full-range", low=low, high=high)


def _by_percentiles(measured: Measured, extent: Extent, place: str, *, inverted: bool) -> Intensity:
    outside = {"below": extent.highest} if inverted else {"above": extent.lowest}
    low, high = measured.percentiles(PERCENTILES, **outside)
    if high - low < _LEAST_SPAN:  # equal, or in float32 a division by zero
        low, high = float(extent.lowest), float(extent.highest)
    if high - low > _LARGEST_SPAN:
        message = (
            f"{place}: its values run from {low:g} to {high:g}, too far apart to be told from each other. Such numbers "
            f"usually stand for 'not measured': write NaN there and ingest with --non-finite lowest."
        )
        raise UnusableVoxels(message)
    foreground = FOREGROUND_INVERTED if inverted else FOREGROUND
    return Intensity(
        rule="percentiles",
        low=low,
        high=high,
        percentiles=PERCENTILES,
        foreground=foreground + WITHOUT_PADDING if extent.padded else foreground,
    )


def _hounsfield_by_value(measured: Measured, extent: Extent) -> bool:
    if not extent.measured or extent.lowest > _AIR_HU or extent.highest < _TISSUE_HU:
        return False
    air = below_air = metal = 0
    for block in measured.blocks():
        air += int(np.count_nonzero(block <= _AIR_HU))
        below_air += int(np.count_nonzero((block < _BELOW_AIR_HU) & (block > extent.lowest)))
        metal += int(np.count_nonzero(block > _METAL_HU))
    return (
        air >= _AIR_SHARE * extent.measured
        and metal <= (1 - PERCENTILES[1] / 100) * extent.measured
        and below_air <= _BELOW_AIR_SHARE * extent.measured
    )


def _window_needed(place: str, modality: str | None, extent: Extent) -> str:
    source = "its modality is CT" if modality else "its values look like Hounsfield units"
    windows = dict.fromkeys(WINDOWS.values())
    choices = "".join(f"\n  --window {window!s:<9}  {', '.join(window.names)}" for window in windows)
    return (
        f"{place}: {source} ({extent.lowest:g} to {extent.highest:g}), and a CT needs an intensity window. "
        f"Add one of:{choices}\n"
        f"  --window NAME       one of these names, for example --window lung\n"
        f"  --channels lung,soft-tissue,bone   three windows, one a channel\n"
        f"  --intensity percentiles   to let each volume choose its own scale"
    )


# -- applying --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Normaliser:
    """Brings the planes of one volume to [0, 1], one after the other: ``out[n] = normaliser(plane)``.

    Values of 8 and 16 bits go through a table that is made once, with the results of the computation in float32 for
    every value there is.
    """

    dtype: np.dtype[Any]
    """Of the volume's values; planes of another kind are taken too, but slowly."""
    intensities: tuple[Intensity, ...]
    """One a channel of the result."""
    padding: tuple[float, float] | None = None
    """From and to which value a voxel is padding; it becomes 0."""
    inverted: bool = False
    """Whether 0 and 1 change places (but for padding and voxels that are not finite)."""
    _tables: tuple[npt.NDArray[np.float16], ...] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.dtype.kind in "iu" and self.dtype.itemsize <= 2:
            made = {scale: self._table(scale) for scale in self.intensities}
            object.__setattr__(self, "_tables", tuple(made[scale] for scale in self.intensities))

    def __call__(self, plane: Numbers) -> npt.NDArray[np.float16]:
        """Return one plane in [0, 1].

        Parameters
        ----------
        plane
            (rows, columns), or (rows, columns, channels) with 1 channel or as many as intensities; whichever two axes.

        Returns
        -------
        array of float16
            (channels, rows, columns), in the plane's order of memory (so that both are read in one go).

        Raises
        ------
        ValueError
            Another number of channels.
        """
        count = len(self.intensities)
        colours = plane.shape[2] if plane.ndim == 3 else 1
        if plane.ndim not in (2, 3) or colours not in (1, count):
            message = f"a plane of shape {plane.shape} does not fit {count} intensities"
            raise ValueError(message)
        turned = abs(plane.strides[0]) < abs(plane.strides[1])
        source = plane.swapaxes(0, 1) if turned else plane
        result = np.empty((count, *source.shape[:2]), dtype=np.float16)
        for channel, scaled in enumerate(result):
            grey = source if source.ndim == 2 else source[..., channel % colours]
            self.fill(grey, scaled, channel=channel)
        return result.swapaxes(1, 2) if turned else result

    def fill(self, values: Numbers, out: npt.NDArray[np.float16], *, channel: int = 0) -> None:
        """Write values in [0, 1] by one channel's intensity into `out`, an array of the same shape."""
        if self._tables is None or values.dtype != self.dtype.newbyteorder("="):
            out[...] = _scaled(values, self.intensities[channel], self.padding, inverted=self.inverted)
            return
        patterns = values.view(f"u{values.dtype.itemsize}")
        np.take(self._tables[channel], patterns, out=out, mode="wrap")  # wrap: faster, and nothing is out of bounds

    def _table(self, scale: Intensity) -> npt.NDArray[np.float16]:
        """Return the result for every bit pattern, read as an unsigned number."""
        patterns = np.arange(1 << (8 * self.dtype.itemsize), dtype=f"u{self.dtype.itemsize}")
        values = cast("Numbers", patterns.view(self.dtype.newbyteorder("=")))
        return _scaled(values, scale, self.padding, inverted=self.inverted)


def normalise(
    values: Numbers,
    intensity: Intensity,
    *,
    padding: tuple[float, float] | None = None,
    inverted: bool = False,
) -> npt.NDArray[np.float16]:
    """Return values as float16 in [0, 1]: computed in float32, clipped, then rounded once.

    Parameters
    ----------
    values
        Any shape, in the image's own units. NaN and infinities become 0: `choose_intensities` has counted them.
    intensity
        From `choose_intensities`, for the same volume.
    padding
        From and to which value (both included) a voxel is padding; it becomes 0.
    inverted
        Whether 0 and 1 change places, before rounding; not for padding and what is not finite.

    Returns
    -------
    array of float16
        The shape and the order of memory of `values`.
    """
    normaliser = Normaliser(dtype=values.dtype, intensities=(intensity,), padding=padding, inverted=inverted)
    result = np.empty_like(values, dtype=np.float16)
    with np.nditer(
        [values, result],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly"], ["writeonly"]],
        op_dtypes=[values.dtype.newbyteorder("="), result.dtype],
        casting="equiv",
        order="K",
        buffersize=BLOCK_VOXELS,
    ) as blocks:
        for block, scaled in blocks:
            normaliser.fill(block, scaled)
    return result


def _scaled(
    values: Numbers, intensity: Intensity, padding: tuple[float, float] | None, *, inverted: bool
) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # the ends of float32: infinity is clipped as any other
        scaled = np.subtract(values, np.float32(intensity.low), dtype=np.float32)
        scaled /= np.float32(intensity.high - intensity.low)
    np.clip(scaled, 0.0, 1.0, out=scaled)
    if inverted:
        np.subtract(np.float32(1.0), scaled, out=scaled)
    if padding is not None:
        scaled[is_padding(values, padding)] = 0.0
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            scaled[~finite] = 0.0
    return scaled.astype(np.float16)
