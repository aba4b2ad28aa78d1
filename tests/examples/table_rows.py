"""Rows of the table of runs, of heads that were never trained."""

from __future__ import annotations

from dataclasses import replace

from samkit.heads.averages import Spread
from samkit.stages.reporting.table import ALL_CLASSES, Row
from samkit.store.runs import NO_ENCODER

_SPREAD = Spread(mean=0.5, standard_deviation=None, worst=0.5, worst_draw=0, draws=1, undefined_draws=0)


def row_of(head: str, encoder: str, recipe_id: str) -> Row:
    """Return the mean row of a head's one run, whose id is ``<head>-<recipe>``."""
    return Row(
        encoder=encoder,
        recipe_id=recipe_id,
        encoder_trained=True,
        head=head,
        head_settings="",
        split="default",
        split_digest="ba9876543210",
        test_set="0123456789ab",
        subjects=1,
        counted="subjects",
        volumes=1,
        draws=1,
        unlike_draws=1,
        class_name=ALL_CLASSES,
        dice=_SPREAD,
        iou=_SPREAD,
        hd95=replace(_SPREAD, mean=3.0),
        assd=replace(_SPREAD, mean=1.0),
        distance_unit="mm",
        accuracy=None,
        prediction_empty=0,
        false_positives=0,
        fitting_seconds=1.0,
        peak_memory_bytes=1,
        trainable_parameters=1,
        run_ids=(f"{head}-{recipe_id}",),
        alike_run_ids=(),
    )


UNET = row_of("unet", NO_ENCODER, NO_ENCODER)
LINEAR = row_of("linear", "nano", "d74490b97bc8")
LINEAR_ON_ANOTHER = row_of("linear", "sam_vit_b", "0123456789ab")
