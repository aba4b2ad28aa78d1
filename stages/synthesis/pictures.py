"""Random subjects and random images of them, batch after batch: what the embedded encoder is trained on.

Picture number n of a seed is the same in any batch, by any number of workers, whether those before it were drawn or
not, bit for bit on processors of one kind and to rounding on others: a training that was stopped goes on with the
picture that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .looks import draw_image, draw_scanner
from .shapes import Anatomy, draw_scene, draw_subject

__all__ = ["PictureBatch", "Pictures"]

# How far subjects of one scene differ, at most; see `draw_subject`.
_MOST_UNLIKE = 0.25
# Of the subjects after a scene's first, seen by another scanner than the one before.
_OTHER_SCANNER_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureBatch:
    """B scenes, L subjects of each. Parts are numbered from 1 in each scene; P is one more than the most of them."""

    images: Tensor
    """(B, L, rows, columns) float32 in [0, 1]."""
    parts: Tensor
    """(B, L, rows, columns) uint8: the part that is seen, 0 outside of everything."""
    kinds: Tensor
    """(B, P) int64: the `Kind` of each part; 0 beyond a scene's last."""
    solids: Tensor
    """(B, P) int64: the solid that each part belongs to; 0 beyond a scene's last."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return type(self)(**{name: getattr(self, name).to(device) for name in self.__slots__})

    def each_alone(self) -> Self:
        """Return the same pictures as scenes of one subject each."""
        subjects = self.images.shape[1]
        return type(self)(
            images=self.images.flatten(0, 1)[:, None],
            parts=self.parts.flatten(0, 1)[:, None],
            kinds=self.kinds.repeat_interleave(subjects, dim=0),
            solids=self.solids.repeat_interleave(subjects, dim=0),
        )


class Pictures(IterableDataset[PictureBatch]):
    """An endless stream of batches, for a `torch.utils.data.DataLoader` with ``batch_size=None``.

    Parameters
    ----------
    seed
        Of the stream.
    batch_size
        Scenes in a batch.
    subjects
        Of each scene.
    size
        Rows and columns.
    first
        Number of the first batch: where a training goes on.
    """

    def __init__(self, seed: int, batch_size: int, *, subjects: int = 1, size: int = 256, first: int = 0) -> None:
        super().__init__()
        self.seed, self.batch_size, self.subjects, self.size, self.first = seed, batch_size, subjects, size, first

    def __iter__(self) -> Iterator[PictureBatch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.first + offset
        while True:
            yield self.batch(number)
            number += step

    def batch(self, number: int, scenes: int | None = None) -> PictureBatch:
        """Return one batch of the stream, or the first so many scenes of it."""
        first = number * self.batch_size
        drawn = [self._drawn(first + index) for index in range(scenes or self.batch_size)]
        most = max(len(anatomies[0].kinds) for anatomies, _ in drawn)
        tables = np.zeros((2, len(drawn), most), np.int64)
        for index, (anatomies, _) in enumerate(drawn):
            tables[:, index, : len(anatomies[0].kinds)] = anatomies[0].kinds, anatomies[0].solids
        kinds, solids = torch.from_numpy(tables)
        return PictureBatch(
            images=torch.from_numpy(np.stack([images for _, images in drawn])),
            parts=torch.from_numpy(np.stack([[one.parts for one in anatomies] for anatomies, _ in drawn])),
            kinds=kinds,
            solids=solids,
        )

    def _drawn(self, number: int) -> tuple[list[Anatomy], NDArray[np.float32]]:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, number])))
        scene = draw_scene(rng)
        unlike = rng.uniform(0, _MOST_UNLIKE)
        anatomies = [draw_subject(rng, scene, self.size, unlike=unlike) for _ in range(self.subjects)]
        parts, in_air = len(anatomies[0].kinds), scene.body is not None
        scanner = draw_scanner(rng, parts, outside_is_air=in_air)
        images = []
        for anatomy in anatomies:
            images.append(draw_image(rng, anatomy, scanner))
            scanner = scanner.of_another(rng)
            if rng.random() < _OTHER_SCANNER_SHARE:
                scanner = draw_scanner(rng, parts, outside_is_air=in_air)
        return anatomies, np.stack(images)
