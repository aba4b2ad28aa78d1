"""Checkpoints: read without executing anything, recognised, and kept on a shelf by digest.

The shelf is a folder of the user's own (``SAMKIT_WEIGHTS``, else the platform's data
directory); a file on it is named by the sha256 of its bytes, so a later command finds by
digest what an earlier one used, whatever it was called.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...store.documents import read_json, readable_json
from ...store.errors import WeightsError
from ...store.local import PART_SUFFIX, LocalPlace

# How fine-tuned SAMs are wrapped in the wild: reference names of training frameworks.
_WRAPPINGS = ("model", "state_dict", "model_state", "model_state_dict")
_PREFIXES = ("module.", "sam.")
_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return a sha256 of named tensors: the digest of weights that come from a seed and no file."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors under SAM's own names.

    Wrappings (``{"model": ...}``) and prefixes (``module.``, ``sam.``) are taken off. Nothing in the
    file is executed: PyTorch files are read with ``weights_only=True``.

    Returns
    -------
    dict
        ``image_encoder.*`` and, where the file has them, ``prompt_encoder.*`` and ``mask_decoder.*``.

    Raises
    ------
    WeightsError
        A file that is missing, truncated, holds code, or is not a SAM checkpoint.
    """
    if not path.is_file():
        message = f"{path}: no such weights file."
        raise WeightsError(message)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    tensors = _unwrapped(content)
    sam_parts = {name: tensor for name, tensor in tensors.items() if name.startswith(_PARTS)}
    if not any(name.startswith("image_encoder.") for name in sam_parts):
        shown = ", ".join(sorted(tensors)[:4]) or "no tensors"
        message = (
            f"{path}: not a SAM checkpoint: no image_encoder.* among its {len(tensors)} tensors ({shown}, ...). "
            f"samkit takes sam_vit_b/l/h checkpoints, plain or wrapped in a 'model' or 'state_dict'."
        )
        raise WeightsError(message)
    return sam_parts


def recognise(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the encoder that a checkpoint belongs to by the width of its tokens; None for an unknown width."""
    widths = {768: "sam_vit_b", 1024: "sam_vit_l", 1280: "sam_vit_h", 192: "nano"}
    embedding = tensors.get("image_encoder.pos_embed")
    return None if embedding is None else widths.get(embedding.shape[-1])


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        message = f"{path}: truncated or not a safetensors file ({error}). Copy or download it again."
        raise WeightsError(message) from error


def _read_pytorch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # weights_only refuses anything but tensors and plain containers, before it runs.
        message = (
            f"{path}: refused: this file is a pickle that holds more than tensors, or no checkpoint at all; loading it "
            f"could run code, so nothing in it was executed. If you trust its source, save the state dict alone "
            f"(torch.save(model.state_dict(), FILE)) or as safetensors."
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


def _unwrapped(content: object) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


# -- the shelf -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ShelvedWeights:
    """One checkpoint on the shelf."""

    encoder: str
    sha256: str
    path: Path
    size_bytes: int


class WeightsShelf:
    """The user's checkpoints, found by digest or by the encoder they belong to."""

    def __init__(self, folder: Path | None = None) -> None:
        default = os.environ.get("SAMKIT_WEIGHTS") or platformdirs.user_data_path("samkit") / "weights"
        self.folder = Path(default) if folder is None else folder

    def __iter__(self) -> Iterator[ShelvedWeights]:
        for note in sorted(self.folder.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns):
            kept = read_json(LocalPlace(note))
            path = self.folder / kept["file"]
            if path.exists():
                yield ShelvedWeights(
                    encoder=kept["encoder"], sha256=note.stem, path=path, size_bytes=path.stat().st_size
                )

    def add(self, file: Path) -> ShelvedWeights:
        """Check a checkpoint and copy it to the shelf; the same bytes are kept once.

        Raises
        ------
        WeightsError
            When it is no checkpoint that samkit can use.
        """
        encoder = recognise(read_checkpoint(file))
        if encoder is None:
            message = f"{file}: an image encoder of a size that samkit does not know (sam_vit_b, _l, _h, nano)."
            raise WeightsError(message)
        sha256 = file_sha256(file)
        kept = self.folder / f"{sha256}{'.safetensors' if file.suffix == '.safetensors' else '.pth'}"
        if not kept.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f".{kept.name}.{os.getpid()}{PART_SUFFIX}")
            shutil.copyfile(file, part)
            part.replace(kept)
        LocalPlace(self.folder / f"{sha256}.json").publish(readable_json({"encoder": encoder, "file": kept.name}))
        return ShelvedWeights(encoder=encoder, sha256=sha256, path=kept, size_bytes=kept.stat().st_size)

    def find(self, *, sha256: str | None = None, encoder: str | None = None) -> ShelvedWeights | None:
        """Return the checkpoint of a digest, or the newest of an encoder, or None."""
        fitting = [kept for kept in self if (sha256 in (None, kept.sha256)) and (encoder in (None, kept.encoder))]
        return fitting[-1] if fitting else None
