"""From voxel values to [0, 1]: one window, or one pair of percentiles, for a whole volume. Pure functions.

Conventions: a window is given as radiologists write it, width/level in Hounsfield units, and covers
level - width/2 to level + width/2. Slices are float16 in [0, 1]; the scale is never chosen by slice, and there is no
min-max after a window: equal tissue has equal values in all slices (and, for CT, in all volumes).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...store.errors import UnusableVoxels, UsageError, WindowNeeded

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Intensity", "IntensityRule", "Window", "choose_intensity", "looks_like_hounsfield", "normalise"]

IntensityRule = Literal["auto", "percentiles"]

# MedSAM's pre_CT_MR.py takes 0.5 and 99.5 for all that is not CT, as nnU-Net does for its clipping.
PERCENTILES = (0.5, 99.5)

# MedSAM takes "> 0", which fails on signed data; the minimum is where scanners and skull stripping put "outside".
FOREGROUND = "finite voxels above the volume's minimum"

# What to type, from everyday reading (MedSAM's paper and code: soft tissue, brain, bone; its lung level is a misprint).
_WINDOWS = (
    ("400/40", "soft tissue, abdomen"),
    ("1500/-600", "lung"),
    ("80/40", "brain"),
    ("1800/400", "bone"),
)

_AIR_HU = -500.0  # air is -1000, lung about -800, fat about -100: nothing of MR lies here by itself
_AIR_SHARE = 1e-3  # of all voxels: one bad voxel, or ringing of an interpolated MR (seen: -144), is not air
_TISSUE_HU = 100.0  # contrast, organs at the upper end, any bone
_BELOW_AIR_HU = -1200.0  # HU end at -1000, with noise; MR phase images go on to -4096
_BELOW_AIR_SHARE = 0.01
_METAL_HU = 4000.0  # 99.5 % of the voxels of a CT lie below; MR of some vendors does not


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A CT window in Hounsfield units."""

    level: float
    """The middle."""
    width: float
    """From black to white; positive."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.level) and math.isfinite(self.width) and self.width > 0):
            message = f"a window needs a positive width and a finite level, not {self.width:g}/{self.level:g}; {_HOW}"
            raise UsageError(message)

    @classmethod
    def parse(cls, text: str) -> Window:
        """Return the window written as ``width/level``, for example ``400/40`` or ``1500/-600``.

        Raises
        ------
        UsageError
            Anything else, or a width that is not positive.
        """
        number = r"[+-]?(?:\d+\.?\d*|\.\d+)"
        found = re.fullmatch(rf"\s*({number})\s*/\s*({number})\s*", text)
        if found is None:
            message = f"--window {text!r}: expected width/level; {_HOW}"
            raise UsageError(message)
        return cls(width=float(found[1]), level=float(found[2]))

    @property
    def low(self) -> float:
        """The value that becomes 0, in Hounsfield units."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """The value that becomes 1, in Hounsfield units."""
        return self.level + self.width / 2

    def __str__(self) -> str:
        return f"{self.width:g}/{self.level:g}"


# Soft tissue alone spans 100 HU, a quarter of its window; images already scaled to [0, 1] span 0.3 % of it.
_LEAST_COVERED = 0.02

_HOW = "for example --window 400/40 (width 400, level 40: -160 to 240 HU, soft tissue) or --window 1500/-600 (lung)."


@dataclass(frozen=True, kw_only=True, slots=True)
class Intensity:
    """How a volume's values become [0, 1]: ``low`` and below is 0, ``high`` and above is 1, linear between."""

    rule: Literal["window", "percentiles"]
    low: float
    """In the image's own units (Hounsfield units for a window)."""
    high: float
    percentiles: tuple[float, float] | None = None
    """Which percentiles ``low`` and ``high`` are; None for a window."""
    foreground: str | None = None
    """Of which voxels; None for a window."""

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


def looks_like_hounsfield(values: npt.NDArray[np.float32], modality: str | None) -> bool:
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
    """
    if modality is not None:
        return modality.upper() == "CT"
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return False
    lowest, highest = finite.min(), finite.max()
    if lowest > _AIR_HU or highest < _TISSUE_HU:
        return False
    below_air = np.count_nonzero((finite < _BELOW_AIR_HU) & (finite > lowest))
    return bool(
        np.count_nonzero(finite <= _AIR_HU) >= _AIR_SHARE * finite.size
        and np.count_nonzero(finite > _METAL_HU) <= (1 - PERCENTILES[1] / 100) * finite.size
        and below_air <= _BELOW_AIR_SHARE * finite.size
    )


def choose_intensity(
    values: npt.NDArray[np.float32],
    modality: str | None,
    window: Window | None,
    rule: IntensityRule,
    *,
    place: str = "the volume",
) -> Intensity:
    """Choose the scale of one volume.

    Parameters
    ----------
    values
        (i, j, k), the whole volume.
    modality
        "CT", "MR", ...; None where unknown, and then the values tell (`looks_like_hounsfield`).
    window
        Used for whatever it is given for.
    rule
        "auto": the window if there is one, else percentiles, except that a CT must name its window.
        "percentiles": percentiles, also for CT.
    place
        The volume's name, for messages.

    Returns
    -------
    Intensity
        The window's bounds, or the 0.5 and 99.5 percentiles of the finite voxels above the volume's minimum. Where
        those two coincide (a mask, a few grey levels) the volume's minimum and maximum are taken.

    Raises
    ------
    UnusableVoxels
        NaN or infinite values, a constant volume, or one that lies wholly outside the window.
    WindowNeeded
        A CT, rule "auto", and no window.
    UsageError
        Both a window and "percentiles".
    """
    if window is not None and rule == "percentiles":
        message = f"--window {window} and --intensity percentiles exclude each other; give one of them."
        raise UsageError(message)
    lowest, highest = _range(values, place)
    if window is not None:
        if lowest >= window.high or highest <= window.low:
            message = (
                f"{place}: all values ({lowest:g} to {highest:g}) lie outside the window {window} "
                f"({window.low:g} to {window.high:g}), so nothing would be visible. Is it a CT in Hounsfield units? "
                f"Without --window, or with --intensity percentiles, the values choose their own scale."
            )
            raise UnusableVoxels(message)
        covered = min(highest, window.high) - max(lowest, window.low)
        if covered < _LEAST_COVERED * window.width:
            message = (
                f"{place}: its values ({lowest:g} to {highest:g}) cover {100 * covered / window.width:.1g} % of the "
                f"window {window} ({window.low:g} to {window.high:g}), so it would be one flat grey. "
                f"It is probably not in Hounsfield units: leave --window out, and the values choose their own scale."
            )
            raise UnusableVoxels(message)
        return Intensity(rule="window", low=window.low, high=window.high)
    if rule == "auto" and looks_like_hounsfield(values, modality):
        raise WindowNeeded(_window_needed(place, modality, lowest, highest))
    low, high = (float(value) for value in np.percentile(values[values > lowest], PERCENTILES))
    if low >= high:
        low, high = lowest, highest
    return Intensity(rule="percentiles", low=low, high=high, percentiles=PERCENTILES, foreground=FOREGROUND)


def normalise(values: npt.NDArray[np.float32], intensity: Intensity) -> npt.NDArray[np.float16]:
    """Return values as float16 in [0, 1]: computed in float32, clipped, then rounded once.

    Parameters
    ----------
    values
        Any shape, finite, in the image's own units.
    intensity
        From `choose_intensity`, for the same volume.
    """
    scaled = np.subtract(values, np.float32(intensity.low), dtype=np.float32)
    scaled /= np.float32(intensity.high - intensity.low)
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled.astype(np.float16)


def _range(values: npt.NDArray[np.float32], place: str) -> tuple[float, float]:
    """Return minimum and maximum; refuse what cannot be scaled."""
    lowest, highest = float(values.min()), float(values.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):  # NaN goes through min and max
        finite = np.isfinite(values)
        nan_count = int(np.count_nonzero(np.isnan(values)))
        infinite_count = int(values.size - np.count_nonzero(finite) - nan_count)
        first = tuple(int(index) for index in np.unravel_index(np.argmin(finite), values.shape))
        message = (
            f"{place}: {nan_count} NaN and {infinite_count} infinite of {values.size} voxels, the first at index "
            f"{first}. A resampling or division step probably left them; write a number there, "
            f"e.g. numpy.nan_to_num(image)."
        )
        raise UnusableVoxels(message)
    if lowest == highest:
        message = (
            f"{place}: all {values.size} voxels have the value {lowest:g}; there is nothing to see. "
            f"The file is probably an empty export: look at it in a viewer, and leave it out."
        )
        raise UnusableVoxels(message)
    return lowest, highest


def _window_needed(place: str, modality: str | None, lowest: float, highest: float) -> str:
    source = "its modality is CT" if modality else "its values look like Hounsfield units"
    choices = "".join(f"\n  --window {text:<9}  {use}" for text, use in _WINDOWS)
    return (
        f"{place}: {source} ({lowest:g} to {highest:g}), and a CT needs an intensity window. Add one of:{choices}\n"
        f"  --intensity percentiles   to let each volume choose its own scale"
    )
