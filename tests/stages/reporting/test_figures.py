"""Legends name a head with its encoder where there are several."""

from __future__ import annotations

import re

from examples.table_rows import LINEAR, LINEAR_ON_ANOTHER, UNET

from samkit.stages.reporting.figures import label_efficiency


def legend(*rows) -> set[str]:
    plot = label_efficiency(rows)
    assert plot is not None
    words = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)
    return {text for text in words if text.startswith(("linear", "unet"))}


def test_one_encoder_beside_a_head_without_one_is_not_named():
    assert legend(LINEAR, UNET) == {"linear", "unet"}


def test_of_several_encoders_a_head_without_one_names_none():
    assert legend(LINEAR, LINEAR_ON_ANOTHER, UNET) == {"linear, nano d744", "linear, sam_vit_b 0123", "unet"}
