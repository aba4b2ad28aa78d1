"""samkit.toml: defaults for flags; and the key that names patients without naming them.

    [embed]
    encoder = "sam_vit_b"
    size = 512

A section is a verb, a key is a flag without its dashes. Flags win. Unknown keys are refused.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import platformdirs

from ..store.errors import UsageError
from ..store.local import LocalPlace

CONFIG_FILE = "samkit.toml"
_KEY_BYTES = 32


def read_config(path: Path, known: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Read samkit.toml, if it is there.

    Parameters
    ----------
    path
        The file; a missing one is an empty one.
    known
        Verb to the flags it has, as written in the file.

    Returns
    -------
    dict
        Verb to flags and their defaults.

    Raises
    ------
    UsageError
        For a file that is not TOML, or a section or key that no verb has; the nearest is named.
    """
    if not path.is_file():
        return {}
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path}: not readable as TOML: {error}."
        raise UsageError(message) from error
    for verb, settings in given.items():
        if verb not in known or not isinstance(settings, dict):
            raise UsageError(_unknown(path, f"section [{verb}]", verb, list(known)))
        for name in settings:
            if name not in known[verb]:
                raise UsageError(_unknown(path, f"setting {name!r} in [{verb}]", name, list(known[verb])))
    return given


def id_key() -> bytes:
    """Return the secret under which ids of patients are hashed; made and kept on first use.

    ``SAMKIT_ID_KEY`` wins. Otherwise it is a file in the user's configuration directory, readable by the user
    alone. The same key on two machines gives the same ids on both.
    """
    given = os.environ.get("SAMKIT_ID_KEY")
    if given:
        return given.encode()
    path = platformdirs.user_config_path("samkit") / "id.key"
    if not path.exists():
        with private_files():
            LocalPlace(path).publish_if_absent(secrets.token_hex(_KEY_BYTES).encode())
    return path.read_bytes()


@contextmanager
def private_files() -> Iterator[None]:
    """Files that are made inside the block are readable by the user alone, from their first moment."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _unknown(path: Path, what: str, name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{path}: unknown {what}.{hint} Known: {', '.join(sorted(known))}."
