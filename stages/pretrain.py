"""pretrain: slices without labels -> pretrained/<id>/. What a baseline learns before any label, once for all draws."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from safetensors.torch import save as save_safetensors

from ..heads.base import HeadContext, find_head
from ..heads.patches import PatchPairs
from ..heads.recipes import ContrastOptions
from ..heads.simclr import SimClrUNet
from ..heads.simclr import pretrain as steps_of
from ..store.documents import bytes_digest, readable_json, sealed_json
from ..store.pretrained import MANIFEST, STEPS, WEIGHTS, Pretraining, PretrainingSettings
from ..store.provenance import code_version
from ..store.workspace import Workspace
from .encoders.memory import forget_peak_memory, free_memory_bytes, peak_memory_bytes, telling_of_memory

# Slices are kept in memory when they take no more than this share of what is free.
_MEMORY_SHARE = 0.5

Progress = Callable[[str, int, int], None]


def pretrain(
    workspace: Workspace,
    settings: PretrainingSettings,
    *,
    device: str = "cpu",
    progress: Progress = lambda _what, _done, _total: None,
) -> Pretraining:
    """Learn from slices without labels; a pretraining that is there is returned as it is.

    Its folder appears whole when everything is done: a kill leaves nothing that counts.

    Parameters
    ----------
    workspace
        Where the slices come from.
    settings
        Whose slices, and how: `stages.training.plan.plan_run` names them.
    device
        Where it is computed.
    progress
        Called with (what, done, total).

    Raises
    ------
    DamagedStore
        When slices are not what was ingested.
    FitDiverged
        When the loss is not finite any more.
    DeviceError
        Where memory runs out.
    """
    there = workspace.pretrainings
    if settings.id in there:
        return there[settings.id]
    head_class = find_head(settings.head)
    assert issubclass(head_class, SimClrUNet)
    forget_peak_memory()
    started = time.perf_counter()
    memory_bytes = int(free_memory_bytes(torch.device("cpu")) * _MEMORY_SHARE)
    pairs = PatchPairs([workspace.volumes[volume_id] for volume_id in settings.slices], memory_bytes=memory_bytes)
    head = head_class.build(HeadContext(input_shape=pairs.input_shape, class_count=2, seed=settings.seed))
    options = ContrastOptions(**settings.training)
    batches = pairs.batches(options.batch_size, settings.seed, torch.device(device))
    told = []
    remedy = "Nothing of it is kept. Free some (who uses it?), or give --device cpu."
    with telling_of_memory(torch.device(device), f"pretraining {settings.head}", remedy):
        for step in steps_of(head.to(device), batches, options, settings.seed):
            told.append(step)
            progress("pretraining", len(told), options.steps)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.down.state_dict().items()}
    files = {WEIGHTS: save_safetensors(tensors), STEPS: readable_json([step.to_json() for step in told])}
    record = {
        "finished": round(time.time(), 3),
        "seconds": round(time.perf_counter() - started, 3),
        "slices": len(pairs),
        "peak_memory_bytes": peak_memory_bytes(),
        "device": device,
        "code_version": code_version(),
        "torch_version": torch.__version__,
        "files": {name: bytes_digest(content) for name, content in files.items()},
    }
    # The last file: on an object store it is what tells that the rest is there.
    files[MANIFEST] = sealed_json({"settings": settings.to_json(), "record": record})
    folder = there.folder / settings.id
    # The same one, made by somebody else meanwhile, stays.
    folder.publish_folder(files, keep=(folder / MANIFEST).exists)
    return there[settings.id]
