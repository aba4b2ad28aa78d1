"""Every maker of one folder by name, for tests that run over all of them: what must be taken, what refused."""

from __future__ import annotations

from .answers import Maker
from .codecs import COMPRESSED, DAMAGED
from .enhanced import ENHANCED
from .four_d import FOUR_D
from .irregular import IRREGULAR
from .kinds import KINDS
from .series import PLAIN

__all__ = ["CATALOGUE", "seed_of"]

CATALOGUE: dict[str, Maker] = {**PLAIN, **IRREGULAR, **KINDS, **FOUR_D, **ENHANCED, **COMPRESSED, **DAMAGED}


def seed_of(name: str) -> int:
    """Return a seed for a case, so that no two share a patient or a series when they lie in one folder."""
    return list(CATALOGUE).index(name) + 1000
