"""From slices in [0, 1] to the square that an encoder's weights expect: its size, its place and its scale of values.

A `PixelRule` says all of that. `NAMED_RULES` are SAM's own two, and one for each paper whose code did otherwise; a
model that brings its own preprocessing has a rule with the rule itself as its name, see `PixelRule.spelled`. None of
the papers' rules is ever a default: each makes a recipe of its own.

Shapes: B slices, H W pixels of the slice, S pixels of the square.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ...heads.frame import Frame
from ...store.errors import UsageError

# SAM's own numbers, on a 0-255 scale, red green blue (segment_anything/build_sam.py).
_MEAN = (123.675, 116.28, 103.53)
_STANDARD_DEVIATION = (58.395, 57.12, 57.375)

# The side that SAM-LST's and AutoSAM's slices had before the network enlarged them.
_DETOUR_PX = 224

# Eight times SAM's own: 512 x 512 cells, of which each looks at each.
_LARGEST_PX = 8192

_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
_SPELLED = re.compile(
    rf"(bilinear|bicubic);(longest-side|square);scale=({_NUMBER});mean=({_NUMBER}(?:,{_NUMBER}){{2}});"
    rf"deviation=({_NUMBER}(?:,{_NUMBER}){{2}})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelRule:
    """How a slice in [0, 1] becomes the square: (value x scale, resized, minus the mean) / the deviation."""

    #: What people type after ``--pixels``, and what the recipe's ``pixel_normalisation`` keeps.
    name: str
    #: Where the slice lies in the square, one of `heads.frame.RESIZES`.
    resize: str
    #: (B, 1 or 3, H, W) and (rows, columns) -> (B, 1 or 3, rows, columns), float32; each slice by itself.
    resized: Callable[[Tensor, tuple[int, int]], Tensor]
    scale: float = 1.0
    #: Red, green, blue, on the scale.
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    #: The side of the square where none is asked for; None for the encoder's own.
    input_px: int | None = None

    @classmethod
    def spelled(
        cls,
        *,
        interpolation: str,
        resize: str,
        scale: float,
        mean: tuple[float, float, float],
        deviation: tuple[float, float, float],
    ) -> Self:
        """Return the rule that a model's own preprocessing spells out; its name is the whole rule.

        Parameters
        ----------
        interpolation
            ``bilinear`` or ``bicubic``, antialiased where the slice becomes smaller; nothing overshoots [0, scale].
        resize
            ``longest-side`` or ``square``.
        scale
            What [0, 1] is multiplied by, before the mean is taken off.
        mean, deviation
            Red, green, blue, on that scale.
        """
        numbers = [",".join(map(_shortest, values)) for values in (mean, deviation)]
        name = f"{interpolation};{resize};scale={_shortest(scale)};mean={numbers[0]};deviation={numbers[1]}"
        return cls(
            name=name,
            resize=resize,
            resized=partial(_bicubic, highest=scale) if interpolation == "bicubic" else _bilinear,
            scale=scale,
            mean=mean,
            deviation=deviation,
        )


def pixel_rule(pixel_normalisation: str) -> PixelRule:
    """Return a rule by its name, or by itself spelled out.

    Raises
    ------
    UsageError
        For another word, or where a number is to be divided by nothing.
    """
    if pixel_normalisation in NAMED_RULES:
        return NAMED_RULES[pixel_normalisation]
    found = _SPELLED.fullmatch(pixel_normalisation)
    if found is None:
        message = f"pixel normalisation {pixel_normalisation!r}: there are {', '.join(NAMED_RULES)}."
        raise UsageError(message)
    interpolation, resize, scale, mean, deviation = found.groups()
    if not all(_three(deviation)):
        message = f"pixel normalisation {pixel_normalisation!r}: a value is divided by its deviation, which is not 0."
        raise UsageError(message)
    return PixelRule.spelled(
        interpolation=interpolation,
        resize=resize,
        scale=float(scale),
        mean=_three(mean),
        deviation=_three(deviation),
    )


def check_size(encoder: str, input_px: int, patch_px: int) -> None:
    """Refuse a side of the square that is no positive multiple of the encoder's patch, or that no memory holds.

    Raises
    ------
    UsageError
        With the nearest size that there is.
    """
    if input_px > _LARGEST_PX:
        message = (
            f"--size {input_px}: at most {_LARGEST_PX} pixels, as attention needs memory for each pair of cells. "
            f"Planes that are larger than the input are cut by --tiles."
        )
        raise UsageError(message)
    if input_px < patch_px or input_px % patch_px:
        nearest = max(patch_px, round(input_px / patch_px) * patch_px)
        message = f"--size {input_px}: {encoder} takes multiples of {patch_px} pixels. Try --size {nearest}."
        raise UsageError(message)


def prepare(images: Tensor, *, input_px: int, pixel_normalisation: str) -> Tensor:
    """Bring slices to the encoder's square; padding, where there is some, is 0 after all else.

    Parameters
    ----------
    images
        (B, 1 or 3, H, W) in [0, 1], any float kind; one channel is repeated.
    input_px
        Side of the square.
    pixel_normalisation
        A rule of `NAMED_RULES`, or one spelled out.

    Returns
    -------
    Tensor
        (B, 3, S, S) float32 on the images' device. A slice's square does not depend on its batch mates.

    Raises
    ------
    UsageError
        For images of another shape, or a rule that there is not.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        message = (
            f"images have the shape {tuple(images.shape)}; give (slices, 1 or 3 channels, rows, columns) in [0, 1]."
        )
        raise UsageError(message)
    rule = pixel_rule(pixel_normalisation)
    frame = Frame(rows=images.shape[2], columns=images.shape[3], input_px=input_px, resize=rule.resize)
    # One channel is resized once: the three would be alike.
    resized = rule.resized(images.float() * rule.scale, frame.inner_px)
    mean = torch.tensor(rule.mean, device=images.device)[:, None, None]
    deviation = torch.tensor(rule.deviation, device=images.device)[:, None, None]
    normalised = (resized - mean) / deviation
    return F.pad(normalised, (0, input_px - frame.inner_px[1], 0, input_px - frame.inner_px[0]))


# -- SAM's own, and what other models ask for --------------------------------------------------------


def _bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _bicubic(images: Tensor, size: tuple[int, int], *, highest: float) -> Tensor:
    # Other packages resize bytes, along the columns and then along the rows: neither pass can overshoot black or white.
    for side in ((images.shape[2], size[1]), size):
        images = F.interpolate(images, side, mode="bicubic", align_corners=False, antialias=True).clamp(0, highest)
    return images


def _by_pil(images_255: Tensor, size: tuple[int, int]) -> Tensor:
    """Do what the package's ResizeLongestSide does, but for a slice so thin that it would be left with no pixel."""
    rows, columns = size
    planes = images_255.round().clamp(0, 255).byte().flatten(0, 1).cpu().numpy()
    resized = np.stack(
        [np.asarray(Image.fromarray(plane).resize((columns, rows), Image.Resampling.BILINEAR)) for plane in planes]
    )
    return torch.from_numpy(resized).view(*images_255.shape[:2], rows, columns).float().to(images_255.device)


# -- the papers' -------------------------------------------------------------------------------------


def _sam_lst(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce to 224 x 224 and enlarge again, both by scipy's cubic spline with the corners' centres kept."""

    def by_way_of_224(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return _zoomed(_zoomed(plane, (_DETOUR_PX, _DETOUR_PX)), size)

    return _each_plane(by_way_of_224, images)


def _zoomed(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if plane.shape == size:
        return plane
    # The published code leaves scipy's mode at "constant", which writes zeros into the last row and column where
    # rounding puts them 6e-14 outside of the image (of 512 to 224 pixels it does; scipy#4922). With "mirror" every
    # other number is the same, bit for bit.
    factors = [new / old for new, old in zip(size, plane.shape, strict=True)]
    zoomed: NDArray[np.float32] = ndimage.zoom(plane, factors, order=3, mode="mirror")
    return zoomed


def _autosam(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch the values, reduce to 224 x 224 as `batchgenerators` does, enlarge as the network does."""

    def to_224(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        # skimage.transform.resize(order=1, mode="constant", anti_aliasing=False) is this call.
        factors = [_DETOUR_PX / length for length in plane.shape]
        small: NDArray[np.float32] = ndimage.zoom(plane, factors, order=1, mode="grid-constant", grid_mode=True)
        return small

    small = _each_plane(to_224, _stretched(images))
    return F.interpolate(small, size, mode="bilinear", align_corners=False)


def _medsam(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by a cubic spline as skimage does, never beyond the slice's own values, and stretch the values."""
    # Over all channels of a slice, as the code does with a colour image.
    lowest, highest = images.amin((1, 2, 3)).tolist(), images.amax((1, 2, 3)).tolist()

    def to_square(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        # skimage.transform.resize(order=3, anti_aliasing=True) is these two calls; the blur is none when enlarging.
        blur = [max(0.0, (old / new - 1) / 2) for new, old in zip(size, plane.shape, strict=True)]
        blurred = ndimage.gaussian_filter(plane, blur, mode="mirror") if any(blur) else plane
        factors = [new / old for new, old in zip(size, plane.shape, strict=True)]
        square: NDArray[np.float32] = ndimage.zoom(blurred, factors, order=3, mode="mirror", grid_mode=True)
        return square

    resized = _each_plane(to_square, images)
    clipped = [part.clamp(low, high) for part, low, high in zip(resized, lowest, highest, strict=True)]
    return _stretched(torch.stack(clipped))


def _stretched(images: Tensor) -> Tensor:
    """Bring the values of each slice, over all of its channels, to [0, 1]; of a flat slice, to 0."""
    lowest, highest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    span = highest - lowest
    return (images - lowest) / torch.where(span > 0, span, 1)


def _each_plane(resized: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: Tensor) -> Tensor:
    """Apply a resize of scipy's to each channel of each slice, (B, 1 or 3, H, W) -> (B, 1 or 3, S, S)."""
    planes = [[torch.from_numpy(resized(plane)) for plane in image] for image in images.detach().cpu().numpy()]
    return torch.stack([torch.stack(channels) for channels in planes]).to(images.device)


# -- their names -------------------------------------------------------------------------------------


NAMED_RULES: dict[str, PixelRule] = {
    rule.name: rule
    for rule in (
        PixelRule(
            name="sam",
            resize="longest-side",
            resized=_bilinear,
            scale=255.0,
            mean=_MEAN,
            deviation=_STANDARD_DEVIATION,
        ),
        PixelRule(
            name="sam-exact",
            resize="longest-side",
            resized=_by_pil,
            scale=255.0,
            mean=_MEAN,
            deviation=_STANDARD_DEVIATION,
        ),
        PixelRule(name="sam-lst", resize="corners-via-224", resized=_sam_lst, input_px=512),
        PixelRule(name="autosam", resize="square-via-224", resized=_autosam),
        PixelRule(name="medsam", resize="square", resized=_medsam),
    )
}
"""The rules that have a name.

``sam``
    SAM's preprocessing in float32: 0-255, antialiased bilinear to the longest side, SAM's mean and deviation, zeros at
    the bottom and the right.
``sam-exact``
    The same, but rounded to bytes and resized by PIL, as the `segment-anything` package's predictor does.
``sam-lst``
    SAM-LST (arXiv 2306.12737, utils.py `test_single_volume` and dataset_synapse.py): each slice reduced to 224 x 224
    and enlarged to the input, 512 where no size is asked for, by scipy's cubic spline; [0, 1] straight into the
    encoder, no mean, no deviation; what the spline overshoots is not clipped. Its training slices of 224 pixels were
    published as files, and by which interpolation they were made is not known: the test code's is taken. In the last
    row and column the published code may have zeros, see `_zoomed`.
``autosam``
    AutoSAM (arXiv 2306.13731, dataset/ACDC.py and models/AutoSamSeg.py): the values of each slice stretched to [0, 1];
    224 x 224 without keeping the aspect, bilinear without antialiasing; bilinear to the input; no mean, no deviation.
    Its images were kept in 7 bits before that, by a script that reads files which are not published: left out.
``medsam``
    MedSAM (MedSAM_Inference.py): the square without keeping the aspect, by skimage's cubic spline; the values of each
    slice stretched to [0, 1]; no mean, no deviation. Inference rounds down to bytes in between and the code that made
    the training data does not: left out. That code also took what lies beyond the border for black: not done here.
"""


def _three(numbers: str) -> tuple[float, float, float]:
    first, second, third = map(float, numbers.split(","))
    return first, second, third


def _shortest(number: float) -> str:
    """Return the shortest decimals that read back as the same number; whole numbers without a point."""
    return str(int(number)) if number == int(number) else repr(float(number))
