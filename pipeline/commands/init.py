"""init: a commented samkit.toml from what a folder holds."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ...stages.readers.labels import LabelChoice, parse_labels
from ...stages.readers.layouts import Found, LayoutOptions
from ...stages.readers.windows import WINDOWS
from ...store.errors import UsageError
from ...store.local import LocalPlace
from .. import console
from ..config import CONFIG_FILE
from ..console import counted
from ..exit_codes import DONE
from ..processes import SourceReaders
from .ingest import found_in

# Of the organs that people segment most: read by their names in the labels.
_WINDOW_OF_ORGAN = {
    "lung": ("lung", "airway", "bronch", "covid"),
    "brain": ("brain", "ventricle", "haemorrhage", "hemorrhage"),
    "bone": ("bone", "vertebra", "rib", "femur"),
    "mediastinum": ("heart", "aorta", "atrium", "esophagus"),
}
_ABDOMEN = "soft-tissue"


def run_init(folder: Path, layout: LayoutOptions, *, flags: Mapping[str, str | int | None], overwrite: bool) -> int:
    """Write samkit.toml into the working directory.

    Parameters
    ----------
    folder, layout
        What is looked at, and how.
    flags
        What the user typed of flags that `ingest` has too: they are kept.
    overwrite
        Replace one that is there.

    Raises
    ------
    UsageError
        There is one already.
    """
    target = Path(CONFIG_FILE)
    if target.exists() and not overwrite:
        message = f"{target} is there already. Nothing was written. Add --overwrite to replace it, or move it away."
        raise UsageError(message)
    with SourceReaders() as readers, found_in(folder, layout, Path.cwd() / "samkit-workspace", readers) as found:
        text = config_text(found, flags)
    LocalPlace(target).publish(text.encode())
    console.say(f"{folder}: {found.layout}, {counted(len(found.sources), 'volume')}, {len(found.refused)} refused")
    for note in found.notes:  # not in the file, which may be passed on: some name files
        console.say(f"  {note}")
    console.say(f"{target} written. next: samkit ingest {shlex.quote(str(folder))} --dry-run")
    return DONE


def config_text(found: Found, flags: Mapping[str, str | int | None]) -> str:
    """Return the text of a samkit.toml for what was found; what is a guess is commented out."""
    labelled = sum(source.label is not None for source in found.sources)
    modalities = Counter(source.modality or "unknown" for source in found.sources)
    told = ", ".join(f"{count} {modality}" for modality, count in modalities.most_common())
    lines = [
        "# Defaults for samkit in this folder. A flag on the command line wins; `samkit VERB --help` explains each.",
        f"# Found: {found.layout}; {counted(len(found.sources), 'volume')} ({told}), {labelled} with a label, "
        f"{len(found.refused)} refused.",
        "",
        "[ingest]",
    ]
    if found.labels is not None and _spelled(found.labels) is None:
        lines += [
            "# One class a structure; not listed, as a name has what --labels separates names by. To choose some:",
            '# labels = "NAME=STRUCTURE*,NAME=STRUCTURE*"',
        ]
    elif found.labels is not None:
        lines += ["# Which labels, and what they are called.", f"labels = {_quoted(str(found.labels))}"]
    elif labelled:
        lines += ["# The labels are numbers: give them names.", '# labels = "1=NAME,2=NAME"']
    else:
        lines += ["# No labels were found. They can be added later: samkit ingest --labels-from FOLDER"]
    if found.overlap is not None:
        lines += ["# Whose a voxel is that belongs to several classes.", f"overlap = {_quoted(found.overlap)}"]
    lines += [f"{name} = {_quoted(value)}" for name, value in flags.items() if value is not None]
    if flags.get("ids") is None and any(source.series is None for source in found.sources):
        hashed = any(source.called for source in found.sources)
        lines += [
            "# Ids of volumes: keyed hashes, or the names of the files where these name no patient.",
            f"# ids = {_quoted('stem' if hashed else 'hash')}",
        ]
    lines += _window_lines(found, modalities)
    channel_hint = "# Which volume of 4-D files: channel, time-index, b-value, echo."
    lines += [
        channel_hint,
        "# time-index = 0",
        "# Volumes without a label are refused with this.",
        "# require-labels = true",
    ]
    lines += [
        "",
        "[embed]",
        "# nano needs no download; sam_vit_b, _l, _h are Segment Anything's, from a checkpoint: weights = FILE.",
        'encoder = "nano"',
        "# size = 512  # input side in pixels; SAM's own is 1024, a quarter of the cells cost less than a quarter",
        "",
        "[train-head]",
        "draws = 3  # different choices of the labelled subjects: the spread is the answer's error bar",
        *([f"split = {_quoted(next(iter(found.splits)))}"] if found.splits else []),
        "",
    ]
    return "\n".join(lines)


def _spelled(labels: LabelChoice) -> str | None:
    """Return labels as ``--labels`` takes them; None where a name has what separates them."""
    try:
        again = parse_labels(str(labels))
    except UsageError:
        return None
    return str(labels) if again == labels else None


def _window_lines(found: Found, modalities: Counter[str]) -> list[str]:
    names = ", ".join(WINDOWS)
    if modalities["CT"]:
        window = _fitting_window(found)
        return [f"# A CT needs a window: {names}; or width/level in HU, as 400/40.", f"window = {_quoted(window)}"]
    if modalities["unknown"]:
        return [
            f"# For CT in Hounsfield units a window: {names}; or width/level, as 400/40. Others scale themselves.",
            f"# window = {_quoted(_ABDOMEN)}",
        ]
    return []


def _fitting_window(found: Found) -> str:
    """Return the window of an organ that all classes belong to; of the dataset's authors; else the abdomen's."""
    if "synapse-18-12" in found.splits:
        return "synapse"
    names = [name.lower() for name in found.labels.names.values()] if found.labels is not None else []
    for window, words in _WINDOW_OF_ORGAN.items():
        if names and all(any(word in name for word in words) for name in names):
            return window
    return _ABDOMEN


def _quoted(text: str | int) -> str:
    # JSON's strings are TOML's basic strings, but for characters beyond the first plane written as pairs.
    return json.dumps(text, ensure_ascii=False)
