"""BIDS (Gorgolewski et al. 2016, bids-specification): ``sub-*`` folders, labels under ``derivatives``.

A label belongs to the image whose stem and an underscore it starts with, the longest where several do.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ..naming import stem
from .base import LayoutOptions, Pairing, Refusal, Tree, note_of_stems
from .endings import SEGMENTATION, LabelOption, one_label_each
from .files import candidate_of, files_of, label_of

__all__ = ["bids"]

_MODALITY_OF_FOLDER = {"ct": "CT", "anat": "MR", "dwi": "MR", "func": "MR", "fmap": "MR", "perf": "MR", "pet": "PT"}


def bids(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``sub-*`` folders with NIfTI files."""
    root = tree.root
    subjects = [path for path in root.glob("sub-*") if path.is_dir()] if root.is_dir() else []
    images = files_of((path for folder in sorted(subjects) for path in tree.under(folder)), "nifti")
    if not images:
        return None
    by_stem = {stem(path): path for path in images}
    labels: dict[Path, list[LabelOption]] = defaultdict(list)
    refused: list[Refusal] = []
    for path in files_of(tree.under(root / "derivatives"), "nifti"):
        name = stem(path)
        owner = _longest_start(name, by_stem)
        if owner is not None:
            option = LabelOption(
                label=label_of(path, options), path=path, stem=name, suffix=name[len(stem(owner)) + 1 :]
            )
            labels[owner].append(option)
        elif SEGMENTATION.search(name.rpartition("_")[2]):  # other derivatives (maps, warps) are nobody's label
            reason = "a label without an image: no image's name is the start of its name"
            refused.append(tree.refusal(path, reason, label=label_of(path, options)))
    chosen = one_label_each(tree, labels, options)
    candidates = []
    for path in images:
        option_of = chosen.by_image.get(path)
        candidate = candidate_of(
            tree,
            path,
            options,
            label=option_of.label if option_of else None,
            label_shown=tree.shown(option_of.path) if option_of else "",
            modality=_modality(path),
            patient=path.relative_to(root).parts[0],
        )
        ambiguous = chosen.ambiguous.get(path)
        candidates.append(candidate if ambiguous is None else candidate.refused(ambiguous, has_several_labels=True))
    return Pairing(
        layout="BIDS",
        candidates=candidates,
        refused=refused,
        label_suffix=chosen.suffix,
        notes=note_of_stems(options),
    )


def _longest_start(name: str, by_stem: dict[str, Path]) -> Path | None:
    """Return the image whose stem and an underscore a name starts with."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "_" and name[:end] in by_stem:
            return by_stem[name[:end]]
    return None


def _modality(path: Path) -> str | None:
    suffix = stem(path).rpartition("_")[2].lower()
    return _MODALITY_OF_FOLDER.get(suffix) or _MODALITY_OF_FOLDER.get(path.parent.name.lower())
