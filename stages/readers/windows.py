"""Intensity windows: by name or by numbers, one or three of them. Pure functions.

Conventions: a window is given as radiologists write it, width/level in Hounsfield units, and covers
level - width/2 to level + width/2. Names are for typing and for telling: two windows of equal numbers are one window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...store.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHANNEL_COUNTS", "WINDOWS", "Window", "chosen_windows", "parse_channels"]

CHANNEL_COUNTS: Final = (1, 3)
"""How many channels a slice may have: what `stages.encoders.pixels.prepare` takes."""

_EXAMPLE = "for example --window 400/40 (width 400, level 40: -160 to 240 HU, soft tissue) or --window 1500/-600 (lung)"
_CHANNELS_EXAMPLE = "for example --channels lung,soft-tissue,bone or --channels 1500/-600,400/40,1800/400"

# Values are scaled in float32: a width must be a normal number there, and low and high must be finite.
_SMALLEST_WIDTH = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max) / 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A CT window in Hounsfield units."""

    level: float
    """The middle."""
    width: float
    """From black to white; positive."""

    def __post_init__(self) -> None:
        # Written so that NaN fails too.
        if not (abs(self.level) <= _LARGEST and _SMALLEST_WIDTH <= self.width <= _LARGEST):
            message = (
                f"a window needs a positive width and a finite level, not {self.width:g}/{self.level:g}; {_EXAMPLE}."
            )
            raise UsageError(message)

    @classmethod
    def parse(cls, text: str, *, flag: str = "--window") -> Window:
        """Return the window written as ``width/level`` (``400/40``, ``1500/-600``) or by its name (``lung``).

        Parameters
        ----------
        text
            A name may be in capitals and have spaces or underscores for hyphens.
        flag
            What was typed before it, for messages.

        Raises
        ------
        UsageError
            Anything else, or a width that is not positive.
        """
        number = r"[+-]?(?:\d+\.?\d*|\.\d+)"
        found = re.fullmatch(rf"\s*({number})\s*/\s*({number})\s*", text)
        if found is not None:
            return cls(width=float(found[1]), level=float(found[2]))
        name = re.sub(r"[\s_]+", "-", text.strip().lower())
        if name in WINDOWS:
            return WINDOWS[name]
        near = get_close_matches(name, WINDOWS, n=1, cutoff=0.5)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        there = ", ".join(f"{known} ({window})" for known, window in WINDOWS.items())
        message = (
            f"{flag} {text!r}: expected width/level or the name of a window.{meant} There are {there}. "
            f"By numbers: {_EXAMPLE}."
        )
        raise UsageError(message)

    @property
    def low(self) -> float:
        """The value that becomes 0, in Hounsfield units."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """The value that becomes 1, in Hounsfield units."""
        return self.level + self.width / 2

    @property
    def names(self) -> tuple[str, ...]:
        """The names of a window of these numbers; often none."""
        return tuple(name for name, window in WINDOWS.items() if window == self)

    @property
    def told(self) -> str:
        """Numbers and names, for people: ``400/40 (soft-tissue, abdomen)``."""
        return f"{self} ({', '.join(self.names)})" if self.names else str(self)

    def __str__(self) -> str:
        return f"{self.width:g}/{self.level:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, never a name."""
        return {"level": self.level, "width": self.width}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Window:
        """Return the window that `to_json` described."""
        return cls(level=stored["level"], width=stored["width"])


# Soft tissue, lung, brain, bone as in MedSAM's paper and code (its printed lung level, -160, is a misprint); liver,
# mediastinum and stroke from everyday reading; synapse is TransUNet's clip of the Synapse CTs to [-125, 275].
WINDOWS: Mapping[str, Window] = MappingProxyType(
    {
        "soft-tissue": Window(width=400.0, level=40.0),
        "abdomen": Window(width=400.0, level=40.0),
        "liver": Window(width=150.0, level=30.0),
        "mediastinum": Window(width=350.0, level=50.0),
        "lung": Window(width=1500.0, level=-600.0),
        "bone": Window(width=1800.0, level=400.0),
        "brain": Window(width=80.0, level=40.0),
        "stroke": Window(width=40.0, level=40.0),
        "synapse": Window(width=400.0, level=75.0),
        "transunet": Window(width=400.0, level=75.0),
    }
)
"""The windows that have a name."""


def parse_channels(text: str) -> tuple[Window, ...]:
    """Return the windows of a slice's channels, in order: names and width/level, separated by commas.

    Parameters
    ----------
    text
        ``lung,soft-tissue,bone``, ``1500/-600,400/40,bone``; one window is the same as ``--window``.

    Returns
    -------
    tuple of Window
        As many as `CHANNEL_COUNTS` allows.

    Raises
    ------
    UsageError
        Another number of windows, an unknown name, or a width that is not positive.
    """
    parts = text.split(",")
    if len(parts) not in CHANNEL_COUNTS:
        message = (
            f"--channels {text!r}: {len(parts)} windows, and the encoders take slices of 1 or 3 channels. Give three, "
            f"{_CHANNELS_EXAMPLE}; a window may be repeated."
        )
        raise UsageError(message)
    return tuple(Window.parse(part, flag="--channels") for part in parts)


def chosen_windows(window: str | None, channels: str | None) -> tuple[Window, ...]:
    """Return the windows that were typed: ``--window`` for one, or ``--channels`` for one or three, or none.

    Raises
    ------
    UsageError
        Both, or what `Window.parse` or `parse_channels` refuse.
    """
    if window is not None and channels is not None:
        message = (
            f"--window {window} and --channels {channels} exclude each other: --window makes one channel, --channels "
            f"one for each of its windows. Give one of them."
        )
        raise UsageError(message)
    if window is not None:
        return (Window.parse(window),)
    return () if channels is None else parse_channels(channels)
