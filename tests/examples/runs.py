"""A head kept as a finished run keeps it, without the training."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from samkit.heads.base import Head, head_bytes
from samkit.store.documents import sealed_json
from samkit.store.runs import RunSettings

SETTINGS = RunSettings(
    head="linear",
    head_config={},
    encoder="nano",
    recipe_id="0123456789ab",
    split="default",
    split_digest="ba9876543210",
    subjects=1,
    draw=0,
    drawn=("a",),
    validation=None,
    drawn_volumes={},
    scored_volumes={},
    label_names={1: "organ"},
    training={},
    seed=0,
)


def keep_head(folder: Path, head: Head) -> Path:
    """Write a head and the manifest of its run into a folder."""
    settings = replace(SETTINGS, head=head.name, head_config=head.config)
    weights = head_bytes(head)
    record = {"head_sha256": hashlib.sha256(weights).hexdigest()}
    folder.mkdir(exist_ok=True)
    (folder / "head.safetensors").write_bytes(weights)
    (folder / "run.json").write_bytes(sealed_json({"settings": settings.to_json(), "record": record, "scores": []}))
    return folder
