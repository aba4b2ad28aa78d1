"""``dataset.json``, in the two dialects there are: label names and channels.

Medical Segmentation Decathlon (Antonelli et al. 2022): ``"labels": {"0": "background", "1": "spleen"}``,
``"modality": {"0": "CT"}``. nnU-Net v2 (documentation/dataset_format.md): ``"labels": {"background": 0, "spleen": 1}``,
``"channel_names": {"0": "CT"}``, ``"file_ending": ".nii.gz"``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...store.errors import UnreadableFile, UnusableLabel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DatasetJson", "read_dataset_json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetJson:
    """What a dataset says of itself."""

    dialect: Literal["decathlon", "nnunet"]
    label_names: dict[int, str]
    """By label value, 0 included where it is named; in the order of the values."""
    channel_names: dict[int, str]
    """By channel number; empty where the file does not say."""
    file_ending: str | None
    """Of images and labels, as ``.nii.gz``; None where the file does not say, as the Decathlon's do not."""

    def modality(self, channel: int) -> str | None:
        """Return "CT" or "MR" where the channel is called so, else None."""
        name = self.channel_names.get(channel, "").strip().upper()
        return {"CT": "CT", "MR": "MR", "MRI": "MR"}.get(name)


def read_dataset_json(path: Path, *, place: str | None = None) -> DatasetJson:
    """Read ``dataset.json``.

    Parameters
    ----------
    path
        The file.
    place
        What to call it in messages; by default its path.

    Raises
    ------
    UnreadableFile
        Not JSON, or without usable ``labels``.
    UnusableLabel
        Region-based labels or an ``ignore`` label (nnU-Net), or a value named twice.
    """
    place = place or str(path)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: not JSON, not UTF-8
        message = (
            f"{place}: not readable as JSON ({error}). Correct it, or remove it and name labels with --labels 1=NAME."
        )
        raise UnreadableFile(message) from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        keys = ", ".join(f'"{key}"' for key in content) if isinstance(content, dict) else type(content).__name__
        message = (
            f'{place}: there is no "labels" object, such as {{"0": "background", "1": "liver"}}; '
            f"found: {keys or 'nothing'}. Add it, or remove the file and name labels with --labels 1=NAME."
        )
        raise UnreadableFile(message)
    by_value = all(_is_number(key) for key in labels)
    names = _names_by_value(place, labels) if by_value else _values_by_name(place, labels)
    dialect: Literal["decathlon", "nnunet"] = "nnunet" if not by_value or "channel_names" in content else "decathlon"
    channels = content.get("channel_names", content.get("modality"))
    ending = content.get("file_ending")
    return DatasetJson(
        dialect=dialect,
        label_names=dict(sorted(names.items())),
        channel_names=_channels(channels),
        file_ending=ending if isinstance(ending, str) and ending.strip(".") else None,
    )


def _names_by_value(place: str, labels: dict[str, Any]) -> dict[int, str]:
    """Read {"1": "liver"}."""
    names = {int(value): str(name) for value, name in labels.items()}
    if len(names) != len(labels):
        message = f'{place}: "labels" names a value twice: {", ".join(labels)}. Keep one name a value.'
        raise UnusableLabel(message)
    return names


def _values_by_name(place: str, labels: dict[str, Any]) -> dict[int, str]:
    """Read {"liver": 1}."""
    regions = [name for name, value in labels.items() if isinstance(value, list)]
    if regions:
        message = (
            f'{place}: "labels" defines regions ({", ".join(regions[:5])}), made of several values each; region-based '
            f"labels are not taken yet. Give each value one name, e.g. --labels 1=NAME after removing the file."
        )
        raise UnusableLabel(message)
    if "ignore" in labels:
        message = (
            f'{place}: "labels" has an "ignore" value ({labels["ignore"]}); partly annotated volumes are not taken '
            f"yet. Set those voxels to a class or to background, and remove the entry."
        )
        raise UnusableLabel(message)
    odd = {name: value for name, value in labels.items() if not _is_number(value)}
    if odd:
        message = f'{place}: "labels" must give whole numbers from 0 on; found {odd}. Correct those entries.'
        raise UnreadableFile(message)
    names = {int(value): name for name, value in labels.items()}
    if len(names) != len(labels):
        message = f'{place}: "labels" gives one value to several names: {labels}. Keep one name a value.'
        raise UnusableLabel(message)
    return names


def _channels(given: object) -> dict[int, str]:
    if not isinstance(given, dict):
        return {}
    return {int(number): str(name) for number, name in given.items() if _is_number(number)}


def _is_number(value: object) -> bool:
    return str(value).strip().isdecimal() and not isinstance(value, bool)
