"""Images in one folder, labels in another, paired by stem: Medical Segmentation Decathlon, nnU-Net, images and labels.

    imagesTr, labelsTr, imagesTs     Antonelli et al. 2022 (Decathlon); nnU-Net's raw data, versions 1 and 2
    images, labels (or masks, ...)   any scans or pictures

nnU-Net's files carry a channel (``_0000``) that labels do without; the Decathlon keeps channels in a fourth axis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....store.errors import InputError, UsageError
from ..dataset_json import DatasetJson, read_dataset_json
from ..labels import LabelChoice
from ..naming import stem
from .base import LABEL, Candidate, LayoutOptions, Pairing, Refusal, Tree, note_of_stems
from .endings import image_and_suffix
from .files import Measured, candidate_of, case_and_channel, files_of, kind_of, label_of, measured, patient_of

__all__ = ["described", "homes_of_pairs", "images_and_labels", "training_folders"]

# What folders of a pair are called, in capitals too; the first of those that are there.
_IMAGES = ("images", "image", "imgs", "img", "scans")
_LABELS = (
    *("labels", "label", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "gts", "gt", "annotations"),
    *("ground_truth", "groundtruth"),
)


def training_folders(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``imagesTr``, ``labelsTr`` and ``imagesTs``: Medical Segmentation Decathlon, and nnU-Net's raw datasets."""
    root = tree.root
    if not (root / "imagesTr").is_dir():
        return None
    description = described(tree)
    ending = description.file_ending if description else None
    there = [tree.within(root / name) for name in ("imagesTr", "imagesTs", "labelsTr", "labelsTs")]
    training, test, labels, test_labels = (_scans(paths, ending) for paths in there)
    nnunet = (description is not None and description.dialect == "nnunet") or _channelled(
        [*training, *test], [*labels, *test_labels]
    )
    if not training and not test and ending is not None and tree.within(root / "imagesTr"):
        message = (
            f"{tree.named(root)}: dataset.json says the files end in {ending}, and imagesTr holds none that do and "
            f"that samkit reads (.nii, .nii.gz, .nrrd, .mha, .png, .tif and the like). Correct its file_ending, or "
            f"convert images and labels to .nii.gz and set it so."
        )
        raise InputError(message)
    return _paired_by_stem(
        tree,
        images=[*training, *test],
        labels=[*labels, *test_labels],
        options=options,
        layout="nnU-Net raw" if nnunet else "medical segmentation decathlon",
        stems_are_ids=True,
        description=description,
        channelled=nnunet,
        # Labels for the test images make them a test set; most datasets keep those to themselves.
        tests=dict.fromkeys(test, "imagesTs") if test_labels else {},
        rest=_rest(tree, there, {*training, *test, *labels, *test_labels}, ending),
    )


def images_and_labels(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``images`` and ``labels`` (or ``masks``), paired by stem, with or without ``_0000`` after the image's."""
    image_folders, label_folders = (_called(tree, words) for words in (_IMAGES, _LABELS))
    # "scans" alone, say, is a folder like any other.
    if not image_folders or (image_folders[0].name != "images" and not label_folders):
        return None
    image_files = tree.under(image_folders[0])
    images = _scans(image_files)
    folders = {folder: there for folder in label_folders if _scans(there := tree.under(folder))}
    label_files = next(iter(folders.values()), [])
    labels = _scans(label_files)
    if not images and not labels:
        return None
    return _paired_by_stem(
        tree,
        images=images,
        labels=labels,
        options=options,
        layout="images and labels",
        stems_are_ids=False,  # anybody's folder, whose files may be called after patients
        description=described(tree),
        channelled=_channelled(images, labels),
        tests={},
        rest=_rest(tree, [image_files, label_files], {*images, *labels}, None),
        notes=_of_several_folders(list(folders)),
    )


def homes_of_pairs(tree: Tree) -> list[Path]:
    """Return the folders in which one of images lies beside one of labels, sorted; none in another."""
    children: dict[Path, set[str]] = defaultdict(set)
    for place in tree.folders:
        inside = place.relative_to(tree.root).parts if place.is_relative_to(tree.root) else ()
        for depth, name in enumerate(inside):
            children[tree.root.joinpath(*inside[:depth])].add(name.casefold())
    homes: list[Path] = []
    for place, names in sorted(children.items()):
        pair = {*_IMAGES} & names and {*_LABELS} & names
        if (pair or {"imagestr", "labelstr"} <= names) and not any(place.is_relative_to(home) for home in homes):
            homes.append(place)
    return homes


def _called(tree: Tree, words: Sequence[str]) -> list[Path]:
    """Return the folders directly in the root that have one of some names, in the order of these."""
    there = {place.relative_to(tree.root).parts[0] for place in tree.folders if place != tree.root}
    found = [(words.index(name.casefold()), name) for name in there if name.casefold() in words]
    return [tree.root / name for _, name in sorted(found)]


def _of_several_folders(folders: Sequence[Path]) -> tuple[str, ...]:
    """Say which labels are taken where several folders hold some."""
    if len(folders) < 2:
        return ()
    first, *others = (f"{folder.name}/" for folder in folders)
    return (
        f"labels are taken from {first}, and those in {' and '.join(others)} are left aside; to take those instead, "
        f"bring them afterwards with --labels-from, or keep one of the folders",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rest:
    """What lies in the folders of images and labels, and is of another kind than what was taken there."""

    leftover: tuple[Path, ...]
    refused: list[Refusal]
    notes: tuple[str, ...]


def _rest(tree: Tree, folders: Sequence[Sequence[Path]], taken: Collection[Path], ending: str | None) -> _Rest:
    """Part what was not taken: what the loose rules may know, what ``dataset.json`` rules out, and previews.

    Parameters
    ----------
    folders
        The files of each folder.
    taken
        Of all of them.
    ending
        What ``dataset.json`` says of the files' names.
    """
    others = [path for paths in folders for path in paths if path not in taken]
    pictures = files_of(others, "picture")
    ruled_out = files_of(others, "nifti", "itk", "hdf5") if ending is not None else []
    left_out = {*pictures, *ruled_out}
    notes: tuple[str, ...] = ()
    if pictures:
        first = tree.shown(pictures[0])
        notes = (
            f"{len(pictures)} picture(s) beside scans left out as previews ({first}{', ...' if pictures[1:] else ''}); "
            f"to take them, put them and their labels into a folder of their own",
        )
    reason = f"dataset.json says that the files end in {ending}; convert this one, or correct its file_ending"
    return _Rest(
        leftover=tuple(path for path in others if path not in left_out),
        refused=[tree.refusal(path, reason) for path in ruled_out],
        notes=notes,
    )


def described(tree: Tree) -> DatasetJson | None:
    """Return what ``dataset.json`` in the layout's root says, where there is one.

    Raises
    ------
    InputError
        It is broken.
    """
    path = tree.root / "dataset.json"
    return read_dataset_json(path, place=tree.named(path)) if path.exists() else None


def _scans(paths: Sequence[Path], ending: str | None = None) -> list[Path]:
    """Return the files that may be images or labels: pictures only where there is nothing else, else they are previews.

    Parameters
    ----------
    ending
        What ``dataset.json`` says of the files' names.
    """
    if ending is not None and kind_of(Path(f"x{ending}")) != "nifti":
        return [path for path in paths if kind_of(path) is not None and path.name.lower().endswith(ending.lower())]
    volumes = files_of(paths, "nifti") if ending is not None else files_of(paths, "nifti", "itk")
    return volumes if volumes or ending is not None else files_of(paths, "picture")


def _channelled(images: Iterable[Path], labels: Iterable[Path]) -> bool:
    """Tell whether a trailing ``_0000`` is a channel and not part of a name like ``liver_0001``.

    It is one where labels go without it; where there are no labels, if every image ends in ``_0000``.
    """
    label_stems = {stem(path) for path in labels}
    image_stems = [stem(path) for path in images]
    if not label_stems:
        return bool(image_stems) and all(name.endswith("_0000") for name in image_stems)
    without = (found[0] for name in image_stems if name not in label_stems and (found := case_and_channel(name)))
    return any(case in label_stems for case in without)


def _paired_by_stem(
    tree: Tree,
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    options: LayoutOptions,
    layout: str,
    stems_are_ids: bool,
    description: DatasetJson | None,
    channelled: bool,
    tests: dict[Path, str],
    rest: _Rest,
    notes: Sequence[str] = (),
) -> Pairing:
    refused = list(rest.refused)
    cases: dict[str, dict[int, Path]] = {}
    for path in images:
        split = case_and_channel(stem(path)) if channelled else None
        name, number = split or (stem(path), 0)
        taken = cases.setdefault(_key(tree, path, name), {})
        if number in taken:
            refused.append(tree.same_name(path, taken[number]))
        else:
            taken[number] = path
    sizes = {path: measured(path) for channels in cases.values() for path in channels.values()}
    channel = _chosen_channel(tree.named(tree.root), cases, sizes, options, description, channelled=channelled)
    label_paths: dict[str, Path] = {}
    for path in labels:
        case = _case_of_label(tree, path, cases)
        if case is None:
            reason = "a label without an image: no image has its name"
            label = label_of(path, options, channelled=channelled)
            refused.append(tree.refusal(path, reason, label=label))
        elif case in label_paths:
            refused.append(tree.same_name(path, label_paths[case], modality=LABEL))
        else:
            label_paths[case] = path
    candidates: list[Candidate] = []
    for case, channels in cases.items():
        if channel not in channels:
            there = ", ".join(str(number) for number in sorted(channels))
            first = next(iter(channels.values()))
            reason = f"there is no channel {channel} of this case (_{channel:04d}); it has {there}"
            refused.append(tree.refusal(first, reason, size=sizes[first].size))
            continue
        path, label_path = channels[channel], label_paths.get(case)
        within = options.channel if options.channel is not None and not channelled else 0
        candidates.append(
            candidate_of(
                tree,
                path,
                options,
                label=None if label_path is None else label_of(label_path, options, channelled=channelled),
                label_shown="" if label_path is None else tree.shown(label_path),
                modality=description.modality(channel if channelled else within) if description else None,
                stem_is_id=stems_are_ids,
                stem_of_case=case.rpartition("/")[2],
                patient_secret=None if stems_are_ids else patient_of(path, options, case.rpartition("/")[2]),
                channelled=channelled,
                channel_names=description.channel_names if description else None,
                chosen=(("channel", channel),) if len(channels) > 1 else (),
                size=sizes[path],
                test_of=tests.get(path),
            )
        )
    names = description.label_names if description else None
    return Pairing(
        layout=layout,
        candidates=candidates,
        refused=refused,
        label_names=names,
        labels=LabelChoice.of_names(names) if names and any(names) else None,
        notes=(*(note_of_stems(options) if stems_are_ids else ()), *rest.notes, *notes),
        leftover=rest.leftover,
    )


def _key(tree: Tree, path: Path, case: str) -> str:
    """Return the case with its subfolders, which labels share: ``siteA/case1`` of ``images/siteA/case1.nii.gz``."""
    inside = path.relative_to(tree.root).parts[1:-1]
    return "/".join([*inside, case])


def _case_of_label(tree: Tree, path: Path, cases: dict[str, dict[int, Path]]) -> str | None:
    """Return the case of a label: named as its image is, or that and ``_mask`` or the like."""
    split = image_and_suffix(path, None)
    names = [stem(path), *([split[0]] if split else [])]
    return next((key for name in names if (key := _key(tree, path, name)) in cases), None)


def _chosen_channel(
    place: str,
    cases: dict[str, dict[int, Path]],
    sizes: dict[Path, Measured],
    options: LayoutOptions,
    description: DatasetJson | None,
    *,
    channelled: bool,
) -> int:
    """Return which of a case's files to take.

    Raises
    ------
    UsageError
        There are several and none was chosen, or the chosen one is nowhere. Named channels in a fourth axis count too.
    """
    names = description.channel_names if description else {}
    within = {size.volumes for size in sizes.values()} - {1}
    if not channelled and within:
        chosen = options.channel if options.channel is not None else options.volume.time_index
        if chosen is None and within == {len(names)}:
            listed = ", ".join(f"{number} ({name})" for number, name in names.items())
            message = f"{place}: the images have several channels: {listed}. Choose one: --channel {min(names)}."
            raise UsageError(message)
        return 0  # within a file it is chosen later
    present = sorted({number for channels in cases.values() for number in channels})
    listed = ", ".join(f"{number} ({names[number]})" if number in names else str(number) for number in present)
    if options.channel is None or (options.channel_is_preferred and not channelled):
        if len(present) > 1:
            message = f"{place}: the images have several channels: {listed}. Choose one: --channel {present[0]}."
            raise UsageError(message)
        return present[0] if present else 0
    if not channelled:
        message = (
            f"{place}: --channel {options.channel}, but the images have no channels (no _0000, _0001 in their names, "
            f"no fourth axis)."
        )
        raise UsageError(message)
    if options.channel not in present:
        message = f"{place}: there is no channel {options.channel}; there are: {listed}."
        raise UsageError(message)
    return options.channel
