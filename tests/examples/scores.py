"""Scores as a run keeps them, made up."""

from __future__ import annotations

from samkit.heads.metrics import ClassScore, ScoredVolume


def scored(subject: str, *dice: float | None, volume: str = "v") -> ScoredVolume:
    """Return a volume with the Dice of its classes c0, c1, ... and no other measure; None where it is undefined."""
    scores = tuple(
        ClassScore(
            class_value=number + 1,
            class_name=f"c{number}",
            dice=value,
            iou=None,
            hd95=None,
            assd=None,
            distance_unit="mm",
            reference_voxels=1,
            prediction_voxels=1,
            outcome="scored",
            false_positive_volume=None,
        )
        for number, value in enumerate(dice)
    )
    return ScoredVolume(volume_id=f"{subject}-{volume}", subject=subject, scores=scores)
