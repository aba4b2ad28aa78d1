"""What a head that sees slices is fed: augmented patches at the slices' own resolution, with their labels.

Shapes: B patches in a batch, C channels of a slice, P pixels along a side of a patch, H W pixels of a slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..store.errors import InputError
from ..store.slices import Volume
from .classes import class_values, to_class_index
from .feeding import AS_THEY_ARE
from .losses import IGNORED
from .views import View

LARGEST_PATCH_PX = 256
"""A patch is as large as most slices, so that most are seen whole, but no larger than this: a training step's memory
and time grow with it. Larger planes are answered window by window."""
_PATCH_MULTIPLE = 16
_MOST = 90.0  # percent of the slices' longer sides
# nnU-Net shows an organ in at least a third of the patches of a batch.
_ON_AN_ORGAN = 1 / 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How patches are changed; each change is drawn anew for each patch. Ranges of size and grey values are nnU-Net's.

    nnU-Net turns patches of planes by any angle and mirrors them along both axes. Here they turn by 30 degrees and are
    not mirrored, because an organ's left is not its right; a bank of views brings turns where organs may lie in any.
    What nnU-Net changes in a fifth of its patches is changed in more here: a U-Net that sees one labelled subject for
    some hundred steps needs it.
    """

    turn_degrees: float = 30.0
    #: Factors of size, below and above 1.
    zoom: tuple[float, float] = (0.7, 1.4)
    #: Chance of a turn and of a zoom; patches that have neither show the slice's own pixels, not interpolated.
    moved: float = 0.5
    #: Chance of a flip along rows, and of one along columns. None by default: an organ's left is not its right, and a
    #: bank of views has no reflections unless they are asked for.
    flip: float = 0.0
    #: Largest exponent, and one over the smallest.
    gamma: float = 1.6
    #: Largest change of brightness, and of the logarithm of contrast.
    brightness: float = 0.15
    contrast: float = 0.3
    #: Largest standard deviation of noise.
    noise: float = 0.08
    #: Chance of each of gamma, noise and a coarser resolution.
    chance: float = 0.3
    #: Coarsest resolution, as a share of the slice's own.
    coarsest: float = 0.5


PLAIN = Augmentation(
    turn_degrees=0, zoom=(1, 1), moved=1, flip=0, gamma=1, brightness=0, contrast=0, noise=0, chance=0, coarsest=1
)
"""No change: patches are parts of slices as they are."""

CONTRASTED = Augmentation(turn_degrees=45, zoom=(0.7, 2.0), moved=1, chance=0.8, brightness=0.25, contrast=0.5)
"""Stronger: two patches of a slice should not be told by their grey values."""


def patch_shape(volumes: Sequence[Volume]) -> tuple[int, int, int]:
    """Return (C, P, P), the shape of a patch of the slices of some volumes.

    Raises
    ------
    InputError
        For volumes with unlike numbers of channels.
    """
    first_of = {volume.record.shape[1]: volume.id for volume in reversed(volumes)}
    channels = set(first_of)
    if len(channels) > 1:
        told = " and ".join(f"{count} (as {first_of[count]})" for count in sorted(first_of))
        message = (
            f"volumes of {told} channels: a network on slices takes one number of them. Take those of the other kind "
            f"out of the dataset (samkit remove), or train a head on embeddings, which takes both: linear, cnn."
        )
        raise InputError(message)
    sides = [max(volume.record.shape[2:]) for volume in volumes for _ in range(volume.record.shape[0])]
    longest = np.percentile(sides, _MOST)
    side = min(LARGEST_PATCH_PX, -(-int(longest) // _PATCH_MULTIPLE) * _PATCH_MULTIPLE)
    return channels.pop(), side, side


class LabelledPatches:
    """Labelled slices of some volumes, in memory, and patches of them for ever.

    Parameters
    ----------
    volumes
        Labelled; their slices may differ in size.
    augmentation
        What a patch goes through.
    views
        Canonical texts (`views.View`). Each patch is of a slice in one of them, drawn anew, before it is augmented: so
        a network on slices is shown what heads on features with the same bank are. Turned, zoomed and cut out at once,
        an image is read bilinearly, whatever interpolation a rotation names, and a label by nearest neighbour.

    Raises
    ------
    InputError
        For a volume without a label, or volumes with unlike numbers of channels.
    DamagedStore
        When slices or a label are not what was ingested.
    """

    #: Slices are read once.
    streamed = False

    def __init__(
        self,
        volumes: Sequence[Volume],
        augmentation: Augmentation | None = None,
        *,
        views: Sequence[str] = AS_THEY_ARE,
    ) -> None:
        self._augmentation = Augmentation() if augmentation is None else augmentation
        self._views = [View.parse(view) for view in views]
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []
        for volume in volumes:
            label = volume.read_label()
            if label is None:
                message = f"{volume.id} has no label map to train on. Ingest it with one, or leave it out."
                raise InputError(message)
            index = to_class_index(label, class_values(volume.label_names))
            self._labels += [torch.from_numpy(plane) for plane in index]
            self._images += [torch.from_numpy(plane) for plane in volume.read_slices(0, len(label))]
        #: (C, P, P)
        self.input_shape = patch_shape(volumes)

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (patches (B, C, P, P) float32, class indices (B, P, P)) for ever: every slice once before any again."""
        random = np.random.default_rng(seed)
        noise = torch.Generator().manual_seed(seed)
        while True:
            order = random.permutation(len(self))
            for first in range(0, len(order), batch_size):
                drawn = [self._patch(index, random, noise) for index in order[first : first + batch_size].tolist()]
                images, labels = (torch.stack(parts) for parts in zip(*drawn, strict=True))
                yield images.to(device), labels.to(device)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield whole slices (B, C, H, W) float32 and their class indices (B, H, W) uint8, of one size at a time."""
        first = 0
        while first < len(self):
            stop = first + 1
            while stop < min(len(self), first + batch_size) and self._labels[stop].shape == self._labels[first].shape:
                stop += 1
            yield torch.stack(self._images[first:stop]).float(), torch.stack(self._labels[first:stop])
            first = stop

    def _patch(self, index: int, random: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        image, label = self._images[index].float(), self._labels[index]
        view = self._views[int(random.integers(len(self._views)))] if len(self._views) > 1 else self._views[0]
        organ, side = torch.nonzero(label), self.input_shape[1]
        where = _sampling_grid(label.shape, organ, side, self._augmentation, random, view=view)
        seen = F.grid_sample(image[None], where, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        # One more than the class, so that what lies beside the slice becomes 0.
        marked = F.grid_sample(
            label[None, None].float() + 1, where, mode="nearest", padding_mode="zeros", align_corners=False
        )[0, 0].long()
        seen = torch.from_numpy(view.values_alone.apply_to_image(seen.numpy()))
        return _recoloured(seen, self._augmentation, random, noise), torch.where(marked > 0, marked - 1, IGNORED)


class PatchPairs:
    """Two patches of each slice of some volumes for ever; labels are not read.

    Parameters
    ----------
    volumes
        With labels or without; their slices may differ in size.
    augmentation
        What a patch goes through, drawn anew for each of the two.
    memory_bytes
        What the slices may take in memory; above it they are read, and verified, in every batch. None for no limit.

    Raises
    ------
    InputError
        For volumes with unlike numbers of channels.
    DamagedStore
        When slices are not what was ingested.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        augmentation: Augmentation = CONTRASTED,
        *,
        memory_bytes: int | None = None,
    ) -> None:
        self._augmentation = augmentation
        self._places = [(volume, position) for volume in volumes for position in range(volume.record.shape[0])]
        whole_bytes = sum(math.prod(volume.record.shape) for volume in volumes) * np.dtype(np.float16).itemsize
        #: Whether slices are read in every batch.
        self.streamed = memory_bytes is not None and whole_bytes > memory_bytes
        self._images: list[Tensor] = []
        if not self.streamed:
            self._images = [
                torch.from_numpy(plane) for volume in volumes for plane in volume.read_slices(0, volume.record.shape[0])
            ]
        #: (C, P, P)
        self.input_shape = patch_shape(volumes)

    def __len__(self) -> int:
        return len(self._places)

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield two patches of each of some slices, (B, C, P, P) both, for ever: every slice once before any again.

        Slices that do not fill a batch at the end of a round are left out of it: a contrast needs others. Where there
        are fewer slices than a batch takes, a batch is all of them.
        """
        random = np.random.default_rng(seed)
        noise = torch.Generator().manual_seed(seed)
        size = min(batch_size, len(self))
        while True:
            order = random.permutation(len(self))
            for first in range(0, len(order) - size + 1, size):
                chosen = order[first : first + size].tolist()
                images = [self._image(index) for index in chosen]
                one, other = (
                    torch.stack([self._patch(image, random, noise) for image in images]).to(device) for _ in range(2)
                )
                yield one, other

    def _image(self, index: int) -> Tensor:
        if not self.streamed:
            return self._images[index].float()
        volume, position = self._places[index]
        return torch.from_numpy(volume.read_slice(position)).float()

    def _patch(self, image: Tensor, random: np.random.Generator, noise: torch.Generator) -> Tensor:
        nowhere = torch.empty(0, 2)
        where = _sampling_grid(image.shape[1:], nowhere, self.input_shape[1], self._augmentation, random, view=View())
        seen = F.grid_sample(image[None], where, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        return _recoloured(seen, self._augmentation, random, noise)


def _sampling_grid(
    shape: Sequence[int],
    organ: Tensor,
    side: int,
    how: Augmentation,
    random: np.random.Generator,
    *,
    view: View,
) -> Tensor:
    """Return where each pixel of a patch lies on its slice, (1, P, P, 2) as (column, row) in [-1, 1].

    ``organ`` are the pixels that belong to one, (N, 2), of a slice of that shape; some patches are around them. The
    patch is of the slice in the view, turned about the patch's middle.
    """
    rows, columns = shape
    if len(organ) and random.random() < _ON_AN_ORGAN:
        middle = organ[int(random.integers(len(organ)))].double()
    else:
        # Anywhere that keeps the patch on the slice; where it is larger, anywhere that keeps the slice on the patch.
        middle = torch.tensor(
            [length / 2 + random.uniform(-0.5, 0.5) * abs(length - side) for length in (rows, columns)],
            dtype=torch.float64,
        ).round()
    # Between four pixels, as the middle of a patch of even side is: unmoved, its pixels are pixels of the slice.
    turned, zoomed = random.random(2) < how.moved
    angle = np.deg2rad(turned * random.uniform(-how.turn_degrees, how.turn_degrees))
    scale = 1 / np.exp(zoomed * random.uniform(*np.log(how.zoom)))
    flips = np.where(random.random(2) < how.flip, -1.0, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale * flips[:, None]
    turn = turn @ view.to_plane
    place = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    offsets = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1) @ torch.from_numpy(turn)
    relative = (middle + offsets) / torch.tensor([rows, columns]) * 2 - 1
    return relative.flip(-1)[None].float()


def _recoloured(image: Tensor, how: Augmentation, random: np.random.Generator, noise: torch.Generator) -> Tensor:
    """Change contrast, brightness, gamma, noise and sharpness of a patch (C, P, P); the result is in [0, 1]."""
    if random.random() < how.chance:
        share = random.uniform(how.coarsest, 1)
        side = max(2, round(share * image.shape[-1]))
        coarse = F.interpolate(image[None], (side, side), mode="bilinear", antialias=True, align_corners=False)
        image = F.interpolate(coarse, image.shape[-2:], mode="bicubic", align_corners=False)[0]
    contrast = np.exp(random.uniform(-how.contrast, how.contrast))
    image = (image - image.mean()) * contrast + image.mean() + random.uniform(-how.brightness, how.brightness)
    if random.random() < how.chance:
        image = image + random.uniform(0, how.noise) * torch.randn(image.shape, generator=noise)
    image = image.clamp(0, 1)
    if random.random() < how.chance:
        image = image ** float(np.exp(random.uniform(-1, 1) * np.log(how.gamma)))
    return image
