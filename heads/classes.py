"""Label values and class indices: background first, then the named values in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def class_values(label_names: Mapping[int, str]) -> list[int]:
    """Return the label value of each class index: background, then the named values in order."""
    return [0, *sorted(label_names)]


def to_class_index(label: NDArray[np.unsignedinteger], values: Sequence[int]) -> NDArray[np.uint8]:
    """Replace label values by class indices; every value must be among ``values``."""
    return np.searchsorted(np.asarray(values), label).astype(np.uint8)


def shown_classes(labels_BGG: Tensor, class_count: int) -> Tensor:
    """Return 1 where a cell shows a class, else 0: (B, K, G, G) float32. `losses.IGNORED` shows none."""
    classes = torch.arange(class_count, device=labels_BGG.device)[:, None, None]
    return (labels_BGG[:, None] == classes).float()


def class_shares(labels_BGG: Tensor, class_count: int, cells: int) -> Tensor:
    """Return how much of each of ``cells`` x ``cells`` larger cells shows each class: (B, K, cells, cells)."""
    return F.avg_pool2d(shown_classes(labels_BGG, class_count), labels_BGG.shape[-1] // cells)
