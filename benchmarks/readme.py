"""The section of README.md on what things cost, made from the numbers in benchmarks/results.

readme.py            write it
tests/test_readme.py compares it: what stands in the README was measured, and by what is kept
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- made by benchmarks/readme.py from benchmarks/results: begin -->", "<!-- end -->"
REFERENCE = "package, float32"


def main() -> None:
    """Put the section into README.md."""
    README.write_text(with_costs(README.read_text(encoding="utf-8")), encoding="utf-8")


def with_costs(text: str) -> str:
    """Return a README whose section on costs is made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{costs()}\n\n{END}{after}"


def costs() -> str:
    """Return the section, Markdown; what was not measured is left out."""
    parts = [
        f"Measured by `make bench` on {_machine(_kept('cache_against_live'))}, where nothing else is said; `sam_vit_b` "
        f"with seeded weights: time does not depend on them."
    ]
    tables = {
        "encoder": _encoder_table,
        "embed": _whole_sentence,
        "micro_sam": _peer_sentence,
        "cache_against_live": _live_table,
        "head_steps": _step_table,
        "class_copies": _copies_sentence,
        "adapter_steps": _adapter_table,
        "precision": _precision_table,
        "memory": _memory_sentence,
        "start_up": _start_sentence,
    }
    parts += [told(_kept(name)) for name, told in tables.items() if (RESULTS / f"{name}.json").exists()]
    return "\n\n".join(parts)


def _encoder_table(kept: dict[str, Any]) -> str:
    sizes = [px for px in ("1024", "256") if px in kept]
    names = [name for name in kept[sizes[0]] if isinstance(kept[sizes[0]][name], dict)]
    head = "| the encoder alone | " + " | ".join(f"{px} px, s a slice | times faster | peak" for px in sizes) + " |"
    lines = [head, "|---|" + "---|---|---|" * len(sizes)]
    for name in names:
        cells = []
        for px in sizes:
            told = kept[px][name]
            cells += [f"{told['seconds_per_slice']:.2f}", f"{told['times_faster']:.1f}"]
            cells += [f"{told['peak_memory_bytes'] / 1e9:.1f} GB"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    at_once = " and ".join(
        f"{max(told['batch'] for told in kept[px].values() if isinstance(told, dict))} at {px} px" for px in sizes
    )
    lines += [
        "",
        f"The package encodes one slice at once, as published code does, samkit {at_once}. With freed memory kept, "
        f"glibc is told not to give memory back after every layer, as samkit's commands do.",
    ]
    return "\n".join(lines)


def _whole_sentence(kept: dict[str, Any]) -> str:
    sizes = [px for px in ("1024", "256") if px in kept]
    told = [
        f"{kept[px]['share_of_bare_rate']:.2f} of the bare encoder's rate at {px} px ({kept[px]['slices']} slices, the "
        f"encoder busy {100 * kept[px]['busy_share']:.0f} % of the time)"
        for px in sizes
    ]
    most = max(kept[px]["peak_memory_bytes"] for px in sizes)
    return (
        f"The whole of `samkit embed --precision bfloat16 --workers 1`, from slices to rows on the disk, keeps "
        f"{' and '.join(told)}, as many slices at once on both sides; it takes at most {most / 1e9:.1f} GB of memory, "
        f"however many slices there are. On long work samkit starts two such processes on a processor."
    )


def _peer_sentence(kept: dict[str, Any]) -> str:
    times = [f"{kept[kind]['times_faster']:.1f} times ({kind})" for kind in ("float32", "bfloat16")]
    return (
        f"At 1024 px it is {' and '.join(times)} as fast as `precompute_state` of micro-sam {kept['version']} on the "
        f"same slices (`benchmarks/micro_sam.py`, which `make bench` leaves out)."
    )


def _live_table(kept: dict[str, Any]) -> str:
    lines = [
        f"| one epoch over {kept['slices']} slices at {kept['input_px']} px, float32 | encoder live, as published code "
        f"runs it | from the cache | times faster | losses over {kept['steps']} steps differ by |",
        "|---|---|---|---|---|",
    ]
    for head in ("linear", "autosam"):
        told = kept[head]
        lines.append(
            f"| `{head}` | {told['live_seconds_per_epoch']:.1f} s | {told['cached_seconds_per_epoch']:.2f} s | "
            f"{told['times_faster']:.0f} | {told['largest_relative_difference_of_losses']:.0e} |"
        )
    return "\n".join(lines)


def _step_table(kept: dict[str, Any]) -> str:
    """Tell a step of each head beside the encoder's: what it takes, what of, and how many times as long it is live."""
    sizes = [px for px in ("512", "1024") if px in kept]
    heads = [name for name, told in kept[sizes[0]].items() if "step_seconds" in told]
    parts = list(kept[sizes[0]][heads[0]]["split_seconds"])
    lines = [
        f"A training step on {kept['batch']} slices of `sam_vit_b`'s features in memory, on {_machine(kept)}, float32; "
        f"and how many times as long it is with the encoder run in it, by the package as published code does, and by "
        f"samkit's own forward pass:",
        "",
        "| head | " + " | ".join(f"{px} px, ms | {', '.join(parts)} % | live | by samkit" for px in sizes) + " |",
        "|---|" + "---|---|---|---|" * len(sizes),
    ]
    for head in heads:
        cells = []
        for px in sizes:
            told = kept[px][head]
            shares = [100 * told["split_seconds"][part] / told["step_seconds"] for part in parts]
            times = told["times_as_long_live"]
            cells += [f"{1000 * told['step_seconds']:.0f}", ", ".join(f"{share:.0f}" for share in shares)]
            cells += [f"{times['package']:.0f}", f"{next(v for k, v in times.items() if k != 'package'):.0f}"]
        lines.append(f"| `{head}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _copies_sentence(kept: dict[str, Any]) -> str:
    times = [f"{kept[count]['step']['times_as_fast']:.1f} times as fast with {count}" for count in ("4", "9")]
    return (
        f"`autosam` shares between classes what the published decoder computes for each of them again: on "
        f"{kept['cells']} x {kept['cells']} cells, forward and backward are {' and '.join(times)} classes (on "
        f"{_processor(kept)})."
    )


def _adapter_table(kept: dict[str, Any]) -> str:
    """Tell how many times as long a step of Medical SAM Adapter is live, by size and number of adapted blocks."""
    lines = [
        f"A training step of `med-sa` on {kept['batch']} slices of `sam_vit_b`, on {_machine(kept)}, float32, from "
        f"rows of what enters its first adapted block; and how many times as long it is with the whole encoder live, "
        f"by samkit's forward pass, and with the package's before these blocks:",
        "",
        "| px | adapted blocks | from the cache, s | live, s | times | by the package |",
        "|---|---|---|---|---|---|",
    ]
    for px in (key for key in ("512", "1024") if key in kept):
        for adapted, told in kept[px].items():
            seconds = [f"{told[f'{which}_seconds']:.2f}" for which in ("cached", "live")]
            times = [f"{told[f'times_as_long_{which}']:.1f}" for which in ("live", "by_package")]
            lines.append(f"| {px} | last {adapted} of 12 | {' | '.join([*seconds, *times])} |")
    return "\n".join(lines)


def _precision_table(kept: dict[str, Any]) -> str:
    lines = [
        f"How rows are kept is a choice (`--store`); float16 and int8 are derived from float32 rows without the "
        f"encoder, where there are such. Relative L2 errors of {kept['rows']} rows of `nano` at {kept['size_px']} px "
        f"against what the encoder answered, reading verified, warm; Dice of `linear` trained at 256 px on rows of "
        f"each kind, {kept['drawn']} subjects of ACDC, mean of {kept['draws']} draws, on {_machine(kept)}:",
        "",
        "| kept as | error, median | worst | Dice % | size on disk | rows read a second |",
        "|---|---|---|---|---|---|",
    ]
    notes = {"float16": " (the default)", "float32": "", "int8": ", a scale a row and channel"}
    for precision, note in notes.items():
        told = kept[precision]
        errors = [
            f"{told[f'relative_error_{which}']:.1e}" if told[f"relative_error_{which}"] else "0"
            for which in ("median", "worst")
        ]
        ratios = [f"{told[f'{what}_against_float16']:.2g}" for what in ("size", "reading")]
        dice = f"{100 * told['dice']:.2f}"
        lines.append(f"| `{precision}`{note} | {' | '.join([*errors, dice, *ratios])} |")
    half = f"{100 * kept['dice_in_bfloat16']:.2f}"
    return "\n".join([*lines, "", f"Rows computed in bfloat16 and kept as float16 give {half} there."])


def _memory_sentence(kept: dict[str, Any]) -> str:
    embed, train = kept["samkit embed"], kept["samkit train-head linear, streamed"]
    few, many = (f"{embed[f'peak_bytes_{count}_volumes'] / 1e6:.0f} MB" for count in (10, 100))
    streamed = [f"{train[f'peak_bytes_{count}_volumes'] / 1e6:.0f}" for count in (10, 100)]
    return (
        f"Peak memory does not grow with the dataset: `embed` with `nano` takes {few} for 10 volumes of ACDC and "
        f"{many} for 100, training from streamed features {' and '.join(streamed)} MB."
    )


def _start_sentence(kept: dict[str, Any]) -> str:
    return (
        f"`samkit --help` takes {kept['ratio']:.2f} of the time of `import torch` (on {_processor(kept)}). On disk a "
        f"slice takes 2 MiB with SAM at 1024 px, 0.5 MiB at 512 px and 0.13 MB with `nano`, in float16."
    )


def _machine(kept: dict[str, Any]) -> str:
    return f"{kept['machine']['cores']} cores of {_processor(kept)} (torch {kept['machine']['torch']})"


def _processor(kept: dict[str, Any]) -> str:
    return f"an {kept['machine']['processor']}"


def _kept(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
