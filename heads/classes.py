"""Label values and class indices: background first, then the named values in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def class_values(label_names: Mapping[int, str]) -> list[int]:
    """Return the label value of each class index: background, then the named values in order."""
    return [0, *sorted(label_names)]


def to_class_index(label: NDArray[np.unsignedinteger], values: Sequence[int]) -> NDArray[np.uint8]:
    """Replace label values by class indices; every value must be among ``values``."""
    return np.searchsorted(np.asarray(values), label).astype(np.uint8)
