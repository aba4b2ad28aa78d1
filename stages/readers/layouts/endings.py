"""Labels that are told by how their names end, and the choice of one where an image has several."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ....store.errors import UsageError
from ..base import LabelFiles
from ..naming import stem
from .base import LayoutOptions, Tree

__all__ = [
    "SEGMENTATION",
    "Chosen",
    "LabelOption",
    "image_and_suffix",
    "is_called_label",
    "one_label_each",
    "text_before_label_word",
]

SEGMENTATION = re.compile(r"seg|label|mask|msk|lesion|(^|[^a-z])(gt|roi)", re.IGNORECASE)
"""What a derivative of BIDS is called that is a label and no map or warp."""

_WORDS = r"gt|seg|segmentation|labels?|masks?"
_LABEL_ENDING = re.compile(rf"^(?P<image>.+)_(?P<suffix>(?:{_WORDS})(?:-[A-Za-z0-9]+)?)$", re.IGNORECASE)
_CALLED_LABEL = re.compile(rf"^(?:{_WORDS})(?:[-_ ]?[0-9]+)?$", re.IGNORECASE)
_WITH_WORD = re.compile(rf"(?:^|[-_. ])(?:{_WORDS})(?:$|[-_. ])", re.IGNORECASE)
_SLICER_ENDINGS = (".seg.nrrd", ".seg.nhdr")

_LISTED = 12

Image = TypeVar("Image", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelOption:
    """One of the labels that an image may have."""

    label: LabelFiles
    path: Path
    stem: str
    suffix: str
    """What follows the image's stem; empty for a label that is not named after its image, such as a DICOM-SEG."""
    note: str = ""
    """How it was found to belong to the image, where that needs telling."""

    @property
    def name(self) -> str:
        """What to type after ``--label-suffix`` for it."""
        return self.suffix or self.stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen(Generic[Image]):
    """One label an image."""

    by_image: dict[Image, LabelOption]
    """Images whose labels have all other endings than the one asked for are absent."""
    ambiguous: dict[Image, str]
    """The reason for which an image is refused."""
    suffix: str | None
    """The one ending of all that were chosen, where they go by ending."""


def image_and_suffix(path: Path, wanted: str | None) -> tuple[str, str] | None:
    """Split the stem of a label into its image's and the suffix; None for what is an image.

    Parameters
    ----------
    wanted
        ``--label-suffix`` without its underscore: an ending that counts whatever it is.

    Examples
    --------
    >>> image_and_suffix(Path("scan_seg-manual.nii.gz"), None)
    ('scan', 'seg-manual')
    """
    name = stem(path)
    if wanted and name.endswith(f"_{wanted}") and len(name) > len(wanted) + 1:
        return name[: -len(wanted) - 1], wanted
    if path.name.lower().endswith(_SLICER_ENDINGS):
        return name, "seg"
    found = _LABEL_ENDING.match(name)
    return (found["image"], found["suffix"]) if found else None


def is_called_label(path: Path, wanted: str | None) -> bool:
    """Tell whether a file is called ``mask``, ``segmentation`` or the like, or just as ``--label-suffix`` says."""
    return stem(path) == wanted or _CALLED_LABEL.match(stem(path)) is not None


def text_before_label_word(path: Path) -> str | None:
    """Return what stands before ``seg``, ``label`` or ``mask`` in a file's name: ``case1`` of ``case1_seg_mr``.

    None where none of them is a word of the name, or nothing stands before it.
    """
    found = _WITH_WORD.search(stem(path))
    return (stem(path)[: found.start()] or None) if found else None


def one_label_each(tree: Tree, labels: Mapping[Image, Sequence[LabelOption]], options: LayoutOptions) -> Chosen[Image]:
    """Choose a label for each image.

    ``--label-suffix`` means what follows the image's stem, or a label's whole stem; of labels that are not named after
    their image, where none fits so, also the end of their stem.

    Raises
    ------
    UsageError
        The suffix fits no label at all.
    """
    wanted = options.label_suffix.lstrip("_") if options.label_suffix is not None else None
    chosen: dict[Image, LabelOption] = {}
    ambiguous: dict[Image, str] = {}
    for image, there in labels.items():
        fitting = _fitting(there, wanted)
        if len(fitting) == 1:
            chosen[image] = fitting[0]
        elif fitting:
            listed = ", ".join(tree.shown(option.path) for option in fitting[:_LISTED])
            more = f", ... ({len(fitting)} in all)" if len(fitting) > _LISTED else ""
            ambiguous[image] = (
                f"it has several labels: {listed}{more}. Choose one for all images, e.g. --label-suffix "
                f"{fitting[0].name}"
            )
    present = sorted({option.name for there in labels.values() for option in there})
    if wanted is not None and present and not chosen and not ambiguous:
        more = f", ... ({len(present)} in all)" if len(present) > _LISTED else ""
        message = (
            f"{tree.typed_as}: no label ends in _{wanted}; there are: {', '.join(present[:_LISTED])}{more}. Choose one "
            f"with --label-suffix."
        )
        raise UsageError(message)
    used = {option.suffix for option in chosen.values()}
    return Chosen(by_image=chosen, ambiguous=ambiguous, suffix=(used.pop() or None) if len(used) == 1 else None)


def _fitting(there: Sequence[LabelOption], wanted: str | None) -> list[LabelOption]:
    ordered = sorted(there, key=lambda option: (option.name, option.path))
    if wanted is None:
        return ordered
    exact = [option for option in ordered if wanted in (option.suffix, option.stem)]
    return exact or [option for option in ordered if not option.suffix and option.stem.endswith(wanted)]
