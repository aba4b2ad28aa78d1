"""What a scanner makes of anatomy: signal by tissue, bias field, noise; and the smooth random fields behind them.

Conventions: arrays are float32 of shape (slices, rows, columns); times are milliseconds, angles degrees, signal is
relative to a voxel of fat, which is 1. Randomness comes from the ``numpy.random.Generator`` handed in, nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["TISSUES", "Acquisition", "Tissue", "add_rician_noise", "bias_field", "draw_acquisition", "smooth_field"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """What decides the brightness of a tissue in MR."""

    t1_ms: float
    """Longitudinal relaxation time at 3 T."""
    t2_ms: float
    """Transverse relaxation time at 3 T, used where T2* would be needed: there is no table of that for all of these."""
    proton_density: float
    """Relative to free water."""


# Relaxation times at 3 T: de Bazelaire et al., Radiology 230:652 (2004), Table of means; blood: Stanisz et al.,
# Magn Reson Med 54:507 (2005). Proton densities, fluid, bowel and cortical bone are round figures that look right.
TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fat": Tissue(t1_ms=382, t2_ms=68, proton_density=0.95),
        "muscle": Tissue(t1_ms=898, t2_ms=29, proton_density=0.80),
        "liver": Tissue(t1_ms=809, t2_ms=34, proton_density=0.85),
        "spleen": Tissue(t1_ms=1328, t2_ms=61, proton_density=0.85),
        "renal cortex": Tissue(t1_ms=1142, t2_ms=76, proton_density=0.88),
        "renal medulla": Tissue(t1_ms=1545, t2_ms=81, proton_density=0.90),
        "pancreas": Tissue(t1_ms=725, t2_ms=43, proton_density=0.82),
        "marrow": Tissue(t1_ms=586, t2_ms=49, proton_density=0.70),
        "cortical bone": Tissue(t1_ms=1000, t2_ms=1.0, proton_density=0.20),
        "blood": Tissue(t1_ms=1932, t2_ms=275, proton_density=0.85),
        "fluid": Tissue(t1_ms=4000, t2_ms=1500, proton_density=1.00),
        "bowel": Tissue(t1_ms=1100, t2_ms=50, proton_density=0.85),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """A spoiled gradient-echo acquisition, the usual T1-weighted abdominal sequence."""

    repetition_time_ms: float
    echo_time_ms: float
    flip_angle_degrees: float

    def signal(self, tissue: Tissue) -> float:
        """Steady-state signal of a tissue, in units of the proton density of water.

        Notes
        -----
        The Ernst formula, Bernstein, King and Zhou, *Handbook of MRI Pulse Sequences* (2004), section 14.1.
        """
        recovered = np.exp(-self.repetition_time_ms / tissue.t1_ms)
        flip = np.deg2rad(self.flip_angle_degrees)
        saturation = np.sin(flip) * (1 - recovered) / (1 - np.cos(flip) * recovered)
        return float(tissue.proton_density * saturation * np.exp(-self.echo_time_ms / tissue.t2_ms))


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """Choose sequence timings as sites choose them: all T1-weighted, none alike.

    The values are rounded to what fits a DICOM decimal string.
    """
    return Acquisition(
        repetition_time_ms=round(rng.uniform(110, 190), 1),
        echo_time_ms=round(rng.uniform(2.0, 4.8), 2),
        flip_angle_degrees=round(rng.uniform(60, 80), 1),
    )


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int, int], *, cycles: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Draw a smooth random field: a cosine series with random coefficients.

    Parameters
    ----------
    rng
        Source of the coefficients.
    shape
        (slices, rows, columns).
    cycles
        How many times the field may go up and down along each axis; the coefficients fall off as a Gaussian
        whose standard deviation this is.

    Returns
    -------
    NDArray[np.float32]
        Shape as asked, mean 0, standard deviation 1 over the array.
    """
    # Two half-cosines make a cycle; beyond 2.5 standard deviations a coefficient is under 5 % and is left out.
    counts = [min(size, 2 + int(5 * cycle)) for size, cycle in zip(shape, cycles, strict=True)]
    coefficients = rng.standard_normal(counts).astype(np.float32)
    for axis, (count, cycle) in enumerate(zip(counts, cycles, strict=True)):
        falloff = np.exp(-0.5 * (np.arange(count) / (2 * cycle)) ** 2).astype(np.float32)
        coefficients *= np.expand_dims(falloff, tuple(other for other in range(3) if other != axis))
    coefficients[0, 0, 0] = 0  # the mean
    field: NDArray[np.float32] = coefficients
    for size, count in zip(shape, counts, strict=True):
        # The first axis goes, its pixels come last: after three of them the axes stand as they stood.
        field = np.tensordot(field, _cosines(size, count), axes=(0, 0))
    field /= field.std()
    return field


@lru_cache(maxsize=256)
def _cosines(size: int, count: int) -> NDArray[np.float32]:
    """Return the first ``count`` cosines over ``size`` pixels, (count, size), orthonormal: the basis of the DCT-II."""
    waves = np.cos(np.pi / size * np.outer(np.arange(count), np.arange(size) + 0.5)) * np.sqrt(2 / size)
    waves[0] = np.sqrt(1 / size)
    basis: NDArray[np.float32] = waves.astype(np.float32)
    return basis


def bias_field(rng: np.random.Generator, shape: tuple[int, int, int], *, strength: float) -> NDArray[np.float32]:
    """Draw the smooth multiplicative shading of receive coils.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        (slices, rows, columns).
    strength
        Standard deviation of the logarithm of the field: 0.1 shades by about 10 %.

    Returns
    -------
    NDArray[np.float32]
        Positive factors, geometric mean 1.
    """
    field: NDArray[np.float32] = np.exp(np.float32(strength) * smooth_field(rng, shape, cycles=(0.5, 0.7, 0.7)))
    return field


def add_rician_noise(
    rng: np.random.Generator, signal: NDArray[np.float32], *, standard_deviation: float
) -> NDArray[np.float32]:
    """Magnitude of a complex signal with Gaussian noise in both channels.

    Parameters
    ----------
    rng
        Source of randomness.
    signal
        Noise-free magnitudes, any shape, not negative.
    standard_deviation
        Of the noise in each channel, in the unit of the signal. Where there is no signal the result has
        mean 1.25 times this.

    Returns
    -------
    NDArray[np.float32]
        Same shape, not negative.

    Notes
    -----
    Gudbjartsson and Patz, Magn Reson Med 34:910 (1995).
    """
    real, imaginary = np.float32(standard_deviation) * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    magnitude: NDArray[np.float32] = np.hypot(signal + real, imaginary)
    return magnitude
