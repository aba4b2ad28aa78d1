"""What a random scanner makes of a random anatomy: MR-like, CT-like, ultrasound-like, none of them any real one.

A *scanner* is drawn for a scene: which parts are of one tissue, how bright that is, its texture, shading, noise,
sharpness and window; subjects seen by one scanner look alike, by two they need not. A network that is to find the parts
in all of them cannot rely on brightness, which is what SynthSeg (Billot et al., arXiv 2107.09559) and anatomix (Dey et
al., arXiv 2411.02372) showed to carry over to scanners that nobody simulated. Arrays are float32, (rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .scanner import add_rician_noise, bias_field, smooth_field
from .shapes import Anatomy

__all__ = ["Modality", "Scanner", "draw_image", "draw_scanner"]


class Modality(StrEnum):
    """A family of scanners."""

    MR = "mr"
    CT = "ct"
    ULTRASOUND = "ultrasound"


_SHARES = {Modality.MR: 0.6, Modality.CT: 0.3, Modality.ULTRASOUND: 0.1}
# Different looks, as a share of the parts: a few look like another, but what nobody could see teaches nothing.
_TISSUES_A_PART = (0.6, 1.0)
#: Pixels along a side that the scanner resolved, before the slice is brought to the size asked for: a cropped
#: hippocampus has 40, a heart 150 to 250.
_FEWEST_PIXELS = 36
_BLURS = (0.35, 0.5, 0.7, 1.0)
# By how much a tissue's signal changes from one subject to the next under one protocol.
_DAILY_CHANGE = 0.04

# Of pictures with a body, how many have air around it that is darker than anything.
_DARK_AIR_SHARE = 0.85
# Of the tissues that CT shows, how many are soft, and their Hounsfield units; of the windows, how many show no more.
_SOFT_SHARE, _SOFT_HOUNSFIELD, _SOFT_WINDOWS = 0.6, (-20.0, 180.0), 0.7
# Hounsfield units of what a body is made of: mean and spread. From textbook tables, rounded.
_HOUNSFIELD = (
    (-1000.0, 10.0),  # air
    (-750.0, 80.0),  # lung
    (-90.0, 20.0),  # fat
    (10.0, 10.0),  # fluid
    (45.0, 15.0),  # muscle, liver, spleen
    (60.0, 15.0),
    (130.0, 40.0),  # organs and vessels with contrast
    (220.0, 60.0),
    (450.0, 150.0),  # bone
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scanner:
    """A scanner, its protocol, and what the tissues of a scene look like in it."""

    modality: Modality
    tissue_of_part: NDArray[np.intp]
    """(parts + 1,)."""
    values: NDArray[np.float32]
    """(tissues,): the signal of each, mostly within 0 to 1."""
    texture_cycles: tuple[float, float]
    """Of a coarse and of a fine texture."""
    texture_strengths: NDArray[np.float32]
    """(2, tissues): standard deviations, as shares of the signal."""
    bias: float
    resolution: float
    """Pixels that the scanner resolves: 0 for the fewest, 1 for all that the picture has."""
    blur: float
    """In the scanner's pixels."""
    noise: float
    """Standard deviation; for ultrasound, the share of speckle."""
    decay: float
    """Of ultrasound with depth."""
    compression: float
    """Of ultrasound in the display."""
    window: tuple[float, float, float]
    """The percentiles that become 0 and 1, and how much farther up the window goes."""
    gamma: float

    def of_another(self, rng: np.random.Generator) -> Scanner:
        """Return the same protocol on another day: every tissue a little brighter or darker."""
        changed = self.values + _DAILY_CHANGE * rng.standard_normal(len(self.values))
        return replace(self, values=np.clip(changed, 0, 1.3).astype(np.float32))


def draw_scanner(
    rng: np.random.Generator, parts: int, modality: Modality | None = None, *, outside_is_air: bool = True
) -> Scanner:
    """Draw a scanner.

    Parameters
    ----------
    rng
        Source of all choices.
    parts
        Of the scene, with the outside: ``len(anatomy.kinds)``.
    modality
        None draws one, MR most often.
    outside_is_air
        Whether what is outside of all parts is air, and not a tissue as any other.
    """
    if modality is None:
        modality = Modality(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    tissue_of_part, values = _draw_tissues(rng, parts, modality, outside_is_air=outside_is_air)
    noise = {
        Modality.MR: min(rng.exponential(0.025), 0.1),
        Modality.CT: min(rng.exponential(0.03), 0.12),
        Modality.ULTRASOUND: rng.uniform(0.3, 1.0),
    }
    return Scanner(
        modality=modality,
        tissue_of_part=tissue_of_part,
        values=values,
        texture_cycles=(rng.uniform(2, 8), rng.uniform(10, 40)),
        texture_strengths=np.minimum(rng.exponential(0.08, (2, len(values))), 0.4).astype(np.float32),
        bias=rng.uniform(0, 0.35) if modality is Modality.MR else 0.0,
        # Most slices are brought to the picture's pixels from nearly as many.
        resolution=np.sqrt(rng.uniform()),
        blur=float(rng.choice(_BLURS)),
        noise=noise[modality],
        decay=rng.uniform(0, 2),
        compression=rng.uniform(2, 20),
        window=(rng.uniform(0, 1.5), rng.uniform(97.5, 100), float(rng.choice([1.0, 1.0, rng.uniform(1.0, 1.6)]))),
        gamma=np.exp(rng.uniform(-0.5, 0.5)) if rng.random() < 0.3 else 1.0,
    )


def draw_image(rng: np.random.Generator, anatomy: Anatomy, scanner: Scanner) -> NDArray[np.float32]:
    """Draw a scanner's image of an anatomy.

    Parameters
    ----------
    rng
        Source of texture, shading and noise.
    anatomy
        See `draw_subject`.
    scanner
        Drawn for the anatomy's scene.

    Returns
    -------
    NDArray[np.float32]
        (rows, columns) in [0, 1], as `samkit ingest` would have made it.
    """
    size = anatomy.parts.shape[0]
    values, tissue_of_part = scanner.values, scanner.tissue_of_part
    signal = np.full((size, size), values[tissue_of_part[0]], np.float32)
    for layer in anatomy.layers:
        region = signal[layer.box]
        region += layer.fraction * (values[tissue_of_part[layer.part]] - region)
    tissue = tissue_of_part[anatomy.parts]
    texture = np.ones((size, size), np.float32)
    for cycles, strengths in zip(scanner.texture_cycles, scanner.texture_strengths, strict=True):
        texture += strengths[tissue] * smooth_field(rng, (1, size, size), cycles=(0.1, cycles, cycles))[0]
    signal *= texture
    if scanner.bias:
        signal *= bias_field(rng, (1, size, size), strength=scanner.bias)[0]
    return _window(_scan(rng, signal, scanner), scanner)


def _draw_tissues(
    rng: np.random.Generator, parts: int, modality: Modality, *, outside_is_air: bool
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the tissue of each part, by its number, and the signal of each tissue, mostly within 0 to 1."""
    count = max(2, round(parts * rng.uniform(*_TISSUES_A_PART)))
    tissue_of_part = rng.permutation(np.arange(parts) % count)
    # One in each stretch of the scale: tissues that are as bright as each other cannot be told apart by anybody.
    spread = (rng.permutation(count) + rng.uniform(0, 1, count)) / count
    if modality is Modality.CT:
        values = _draw_hounsfield(rng, spread)
    elif modality is Modality.ULTRASOUND:
        values = np.exp(2.5 * (spread - 1))
    else:
        values = spread
    if outside_is_air and rng.random() < _DARK_AIR_SHARE:
        tissue_of_part[0] = count
        values = np.append(values, 0.02 if modality is not Modality.CT else 0.0)
    return tissue_of_part, np.clip(values, 0, 1.3).astype(np.float32)


def _draw_hounsfield(rng: np.random.Generator, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signal of tissues under CT, in a window: soft ones as far apart as in ``spread``, and others."""
    lowest, highest = _SOFT_HOUNSFIELD
    means, spreads = np.array(_HOUNSFIELD)[rng.integers(0, len(_HOUNSFIELD), len(spread))].T
    soft = rng.random(len(spread)) < _SOFT_SHARE
    units = np.where(soft, lowest + spread * (highest - lowest), rng.normal(means, spreads))
    if rng.random() < _SOFT_WINDOWS:
        low, high = rng.uniform(-200, -50), rng.uniform(180, 300)
    else:
        low, high = -1000.0, rng.uniform(200, 900)
    values: NDArray[np.float64] = (units - low) / (high - low)
    return values


def _scan(rng: np.random.Generator, signal: NDArray[np.float32], scanner: Scanner) -> NDArray[np.float32]:
    """Blur to what the scanner resolves, add its noise there, and interpolate to the picture's pixels."""
    size = signal.shape[0]
    fewest = min(_FEWEST_PIXELS, size)
    down, up = _resampling(size, int(fewest * (size / fewest) ** scanner.resolution), scanner.blur)
    coarse = (down @ signal @ down.T).astype(np.float32, copy=False)
    if scanner.modality is Modality.ULTRASOUND:
        coarse = _speckle(rng, coarse, scanner)
    elif scanner.modality is Modality.CT:
        coarse += np.float32(scanner.noise) * rng.standard_normal(coarse.shape, np.float32)
    else:
        coarse = add_rician_noise(rng, np.maximum(coarse, 0), standard_deviation=scanner.noise)
    seen: NDArray[np.float32] = (up @ coarse @ up.T).astype(np.float32, copy=False)
    return seen


def _speckle(rng: np.random.Generator, signal: NDArray[np.float32], scanner: Scanner) -> NDArray[np.float32]:
    """Multiply by the interference of many small reflectors, attenuate with depth, and compress as a display does.

    Fully developed speckle has a Rayleigh-distributed amplitude: Burckhardt, IEEE Trans Sonics Ultrason 25:1 (1978).
    """
    real, imaginary = rng.standard_normal((2, *signal.shape), np.float32)
    amplitude = np.hypot(real, imaginary) / np.float32(np.sqrt(np.pi / 2))
    depth = np.linspace(0, 1, signal.shape[0], dtype=np.float32)[:, None]
    speckled = np.maximum(signal, 0) * (1 + np.float32(scanner.noise) * (amplitude - 1))
    compressed: NDArray[np.float32] = np.log1p(
        np.float32(scanner.compression) * speckled * np.exp(-np.float32(scanner.decay) * depth)
    )
    return compressed


def _window(image: NDArray[np.float32], scanner: Scanner) -> NDArray[np.float32]:
    """Bring to [0, 1] as ingest does, by percentiles; but of a volume, of which this is not the brightest slice."""
    lowest, highest, stretch = scanner.window
    low, high = np.percentile(image[::4, ::4], [lowest, highest])
    high = low + max(float(high - low), 1e-3) * stretch
    windowed: NDArray[np.float32] = np.clip((image - np.float32(low)) / np.float32(high - low), 0, 1)
    return windowed if scanner.gamma == 1.0 else windowed ** np.float32(scanner.gamma)


@lru_cache(maxsize=1024)
def _resampling(size: int, pixels: int, blur: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrices that bring ``size`` values to ``pixels`` and back.

    The first averages under a Gaussian of ``blur`` coarse pixels, the second interpolates linearly between centres.
    All that pictures of 256 pixels come to are some 900 pairs, in each process that draws up to 264 MB.
    """
    step = size / pixels
    centres = (np.arange(pixels) + 0.5) * step
    places = np.arange(size) + 0.5
    down = np.exp(-0.5 * np.square((places[None, :] - centres[:, None]) / (blur * step)))
    down /= down.sum(axis=1, keepdims=True)
    up = np.maximum(0, 1 - np.abs(places[:, None] - centres[None, :]) / step)
    up /= up.sum(axis=1, keepdims=True)  # beyond the outermost centres there is only one neighbour
    return down.astype(np.float32), up.astype(np.float32)
