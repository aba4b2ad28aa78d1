"""samkit: run a frozen segmentation encoder once, keep the embeddings, train heads in minutes.

The names below are the public API. They are imported when first used, so that
``import samkit`` and ``samkit --help`` load neither torch nor zarr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .heads.base import FeatureHead, Head, HeadContext, load_head, register_head
    from .heads.dataset import EmbeddedSlice, EmbeddedSlices
    from .stages.encoders.base import Encoder, load_encoder, register_encoder
    from .stages.encoders.memory import keep_freed_memory
    from .store.errors import SamkitError
    from .store.workspace import Workspace, open_workspace

__all__ = [
    "EmbeddedSlice",
    "EmbeddedSlices",
    "Encoder",
    "FeatureHead",
    "Head",
    "HeadContext",
    "SamkitError",
    "Workspace",
    "__version__",
    "keep_freed_memory",
    "load_encoder",
    "load_head",
    "open_workspace",
    "register_encoder",
    "register_head",
]

_HOMES = {
    "EmbeddedSlice": ".heads.dataset",
    "EmbeddedSlices": ".heads.dataset",
    "Encoder": ".stages.encoders.base",
    "FeatureHead": ".heads.base",
    "Head": ".heads.base",
    "HeadContext": ".heads.base",
    "SamkitError": ".store.errors",
    "Workspace": ".store.workspace",
    "keep_freed_memory": ".stages.encoders.memory",
    "load_encoder": ".stages.encoders.base",
    "load_head": ".heads.base",
    "open_workspace": ".store.workspace",
    "register_encoder": ".stages.encoders.base",
    "register_head": ".heads.base",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("samkit")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
