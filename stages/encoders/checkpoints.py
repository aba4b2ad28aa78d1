"""Checkpoints of SAM as people have them: read without executing anything, and brought under SAM's own names.

Met in the wild: the state dict of the whole Sam, plain or under ``model``, ``state_dict``,
``model_state``; names with ``module.``, ``sam.``, ``model.`` or ``_orig_mod.`` in them, which
training frameworks and torch.compile put there; the image encoder alone; parts of other
networks beside SAM's, such as the decoder of micro-sam under ``decoder_state``.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...store.errors import WeightsError

# How training frameworks wrap a state dict.
_WRAPPINGS = ("model", "state_dict", "model_state", "model_state_dict")
# What DataParallel, micro-sam and Lightning put in front of every name.
_PREFIXES = re.compile(r"^(?:(?:module|sam|model)\.)+")
# What torch.compile puts in, wherever a module was compiled.
_COMPILED = re.compile(r"(?:^|(?<=\.))_orig_mod\.")
# DataParallel around one part of SAM.
_WRAPPED_PART = re.compile(r"^(image_encoder|prompt_encoder|mask_decoder)\.(?:module\.)+")

_ENCODER = "image_encoder."
# What SAM has below its two other parts (segment_anything/modeling); variants such as SAM-HQ's decoder have more.
_SAM_BELOW = {
    "prompt_encoder": ("pe_layer", "point_embeddings", "not_a_point_embed", "mask_downscaling", "no_mask_embed"),
    "mask_decoder": (
        "transformer",
        "iou_token",
        "mask_tokens",
        "output_upscaling",
        "output_hypernetworks_mlps",
        "iou_prediction_head",
    ),
}
# Constants of SAM's preprocessing, which some versions of the package save: nothing to tell.
_UNTOLD = ("pixel_mean", "pixel_std")
# An image encoder alone, without `image_encoder.` in its names. A neck and positions on a grid (4 dimensions) tell it
# from other ViTs.
_BARE_ENCODER = ("pos_embed", "patch_embed.", "blocks.", "neck.")
_BARE_TELLING = ("patch_embed.proj.weight", "neck.0.weight")
_GRID_DIMENSIONS = 4

_SHOWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a file holds of SAM, and what it holds beside."""

    #: ``image_encoder.*`` and, where the file has them, ``prompt_encoder.*`` and ``mask_decoder.*``.
    tensors: dict[str, Tensor]
    #: Parts that samkit does not use, and how many tensors each has.
    left_aside: Mapping[str, int]

    @property
    def encoder(self) -> str | None:
        """Name of the encoder it belongs to, see `recognise`."""
        return recognise(self.tensors)

    @property
    def told_aside(self) -> str:
        """What was left aside, for people; empty where nothing was."""
        return ", ".join(
            f"{part} ({count} tensor{'' if count == 1 else 's'})" for part, count in self.left_aside.items()
        )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors under SAM's own names.

    Nothing in the file is executed: PyTorch files are read with ``weights_only=True``.

    Returns
    -------
    dict
        ``image_encoder.*`` and, where the file has them, ``prompt_encoder.*`` and ``mask_decoder.*``.

    Raises
    ------
    WeightsError
        A file that is missing, truncated, holds code, or is not a SAM checkpoint.
    """
    return _taken_apart(_content(path, mapped=False), path).tensors


def read_resnet(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint of torchvision's ResNet-18 under its own names, as safely as `read_checkpoint`.

    Raises
    ------
    WeightsError
        For a file that is none.
    """
    content = _content(path, mapped=False)
    tensors = content if isinstance(content, Mapping) else {}
    found = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    shape = getattr(found.get("layer3.0.conv1.weight"), "shape", None)
    if shape != _RESNET18_SHAPE:
        message = (
            f"{path}: not a checkpoint of torchvision's ResNet-18, whose layer3.0.conv1.weight is "
            f"{tuple(_RESNET18_SHAPE)}. Its name there is resnet18-f37072fd.pth."
        )
        raise WeightsError(message)
    return found


def look_into(path: Path) -> Checkpoint:
    """Return what a checkpoint holds, its tensors mapped from the disk and not read; see `read_checkpoint`."""
    return _taken_apart(_content(path, mapped=True), path)


def recognise(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the encoder that a checkpoint belongs to by the width of its tokens; None for an unknown width."""
    widths = {768: "sam_vit_b", 1024: "sam_vit_l", 1280: "sam_vit_h", 192: "nano"}
    embedding = tensors.get(f"{_ENCODER}pos_embed")
    return None if embedding is None else widths.get(embedding.shape[-1])


_RESNET18_SHAPE = torch.Size((256, 128, 3, 3))


# -- the file --------------------------------------------------------------------------------------


def _content(path: Path, *, mapped: bool) -> object:
    if not path.is_file():
        message = f"{path}: no such weights file."
        raise WeightsError(message)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path, mapped=mapped)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        message = f"{path}: truncated or not a safetensors file ({error}). Copy or download it again."
        raise WeightsError(message) from error


def _read_pytorch(path: Path, *, mapped: bool) -> object:
    try:
        # The format before torch 1.6 is no zip, and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # weights_only refuses anything but tensors and plain containers, before it runs.
        message = (
            f"{path}: refused: this file is a pickle that holds more than tensors{_held_beside(path)}, or no "
            f"checkpoint at all; loading it could run code, so nothing in it was executed. If you trust its source, "
            f"save the state dict alone (torch.save(model.state_dict(), FILE)) or as safetensors; for a training "
            f"checkpoint of micro-sam, micro_sam.util.export_custom_sam_model does that."
        )
        raise WeightsError(message) from error
    # What torch raises for bytes that are no checkpoint depends on where its parser stumbles.
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        message = (
            f"{path}: cannot be read as a PyTorch checkpoint: {str(error).splitlines()[0] if str(error) else 'empty'}. "
            f"It is truncated (it has {path.stat().st_size} bytes) or no checkpoint at all. Copy or download it again."
        )
        raise WeightsError(message) from error


def _held_beside(path: Path) -> str:
    """Name the classes that a checkpoint asks for, read from its pickle without executing it; empty where unknown."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, LookupError, TypeError, EOFError, OSError, pickle.UnpicklingError, struct.error):
        return ""
    shown = ", ".join(names[:_SHOWN])
    return f" ({shown}{', ...' if len(names) > _SHOWN else ''})" if names else ""


# -- its content -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Level:
    """A mapping of the file, by the keys that lead to it, and its tensors under plain names."""

    keys: tuple[str, ...]
    content: Mapping[object, object]
    tensors: dict[str, Tensor]

    @property
    def has_encoder(self) -> bool:
        return any(name.startswith(_ENCODER) for name in self.tensors)


def _taken_apart(content: object, path: Path) -> Checkpoint:
    """Find SAM in what a file holds."""
    if not isinstance(content, Mapping):
        raise WeightsError(_not_sam(path, []))
    levels = list(_levels(content, (), path))
    holding = [level for level in levels if level.has_encoder]
    if not holding:
        raise WeightsError(_not_sam(path, levels))
    # An outer level comes before those inside it, and wins; of two side by side neither does.
    chosen = holding[0]
    rivals = [level for level in holding[1:] if level.keys[: len(chosen.keys)] != chosen.keys]
    if rivals:
        places = " and under ".join(repr(".".join(level.keys)) for level in (chosen, *rivals))
        message = (
            f"{path}: holds several image encoders, under {places}. Save the one you want alone: "
            f"torch.save(torch.load(FILE)[KEY], NEW-FILE)"
        )
        raise WeightsError(message)
    aside: Counter[str] = Counter()
    for level in levels:
        if level.keys != chosen.keys[: len(level.keys)]:
            continue
        aside.update(_shown_part(name) for name in level.tensors if level is not chosen or not _is_sams(name))
        # The key that leads on to SAM is not beside it.
        leads_on = chosen.keys[len(level.keys)] if level is not chosen else None
        for key, value in level.content.items():
            if key != leads_on and not isinstance(value, Tensor):
                aside[str(key)] += _tensor_count(value)
    return Checkpoint(
        tensors={name: value for name, value in chosen.tensors.items() if _is_sams(name)},
        left_aside={part: count for part, count in aside.items() if count and part not in _UNTOLD},
    )


def _levels(content: Mapping[object, object], keys: tuple[str, ...], path: Path) -> Iterator[_Level]:
    """Yield a mapping and those inside its wrappings, outer ones first."""
    yield _Level(keys=keys, content=content, tensors=_plainly_named(content, path))
    for key in _WRAPPINGS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            yield from _levels(inner, (*keys, key), path)


def _plainly_named(content: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    """Return the tensors of one mapping, what frameworks put into their names taken out."""
    given = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    plain: dict[str, str] = {}
    for name in given:
        short = _WRAPPED_PART.sub(r"\1.", _PREFIXES.sub("", _COMPILED.sub("", name)))
        if short in plain:
            message = (
                f"{path}: {plain[short]} and {name} are both SAM's {short}. The file holds two models: save the one "
                f"you want alone."
            )
            raise WeightsError(message)
        plain[short] = name
    front = _ENCODER if _is_bare_encoder({short: given[name] for short, name in plain.items()}) else ""
    return {
        f"{front}{short}" if short.startswith(_BARE_ENCODER) else short: given[name] for short, name in plain.items()
    }


def _is_bare_encoder(tensors: Mapping[str, Tensor]) -> bool:
    positions = tensors.get("pos_embed")
    return (
        positions is not None and positions.ndim == _GRID_DIMENSIONS and all(name in tensors for name in _BARE_TELLING)
    )


def _is_sams(name: str) -> bool:
    """Whether a name belongs to SAM; of the image encoder all does, so that loading it finds what does not fit."""
    part, _, below = name.partition(".")
    return name.startswith(_ENCODER) or below.partition(".")[0] in _SAM_BELOW.get(part, ())


def _shown_part(name: str) -> str:
    """Return what a tensor is counted under: the part it belongs to."""
    part, _, below = name.partition(".")
    return f"{part}.{below.partition('.')[0]}" if part in _SAM_BELOW else part


def _tensor_count(value: object) -> int:
    if isinstance(value, Tensor):
        return 1
    if isinstance(value, Mapping):
        return sum(map(_tensor_count, value.values()))
    return sum(map(_tensor_count, value)) if isinstance(value, list | tuple) else 0


def _not_sam(path: Path, levels: list[_Level]) -> str:
    """Say what a file holds that is no SAM."""
    names = sorted(name for level in levels for name in level.tensors)
    shown = ", ".join(names[:_SHOWN]) or "no tensors"
    message = f"{path}: not a SAM checkpoint: no {_ENCODER}* among its {len(names)} tensors ({shown}, ...). "
    elsewhere = next((name for name in names if f".{_ENCODER}" in name), None)
    if elsewhere is not None:
        place = elsewhere[: elsewhere.index(f".{_ENCODER}")]
        message += f"One lies under {place!r}: save what is below that alone. "
    elif not names and levels:
        message += f"Its keys: {', '.join(str(key) for key in list(levels[0].content)[:_SHOWN])}. "
    return f"{message}samkit takes sam_vit_b/l/h checkpoints, plain or wrapped in a 'model' or 'state_dict'."
