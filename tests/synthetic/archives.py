"""Zips: a folder as one, one in another, and those that mean harm."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

__all__ = ["bomb", "cut_zip", "encrypted_flag", "escaping", "linking", "nested_bomb", "zip_folder"]


def zip_folder(folder: Path, target: Path, *, keep_name: bool = True, order: list[Path] | None = None) -> Path:
    """Zip a folder's files, under the folder's own name or without it; `order`: in which they are written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    base = folder.parent if keep_name else folder
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in order or sorted(folder.rglob("*")):
            if path.is_file() and path != target:
                archive.write(path, path.relative_to(base).as_posix())
    return target


def escaping(target: Path, content: bytes = b"out") -> tuple[str, ...]:
    """Write members whose names lead out of the folder; return those names."""
    names = ("../escaped.dcm", "a/../../escaped.dcm", "/escaped.dcm", "..\\escaped.dcm", "C:\\escaped.dcm")
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, content)
        archive.writestr("inside.dcm", content)
    return names


def linking(target: Path, to: str = "/etc/hostname") -> Path:
    """Write a symbolic link that leads out of the folder, and a file to be written through it."""
    with zipfile.ZipFile(target, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, to)
        archive.writestr("link/file.dcm", b"through")
    return target


def bomb(target: Path, *, mebibytes: int = 64, files: int = 1) -> Path:
    """Write zeros, a thousandth of their size as a zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"{number}.dcm", b"\0" * (mebibytes * 2**20 // files))
    return target


def nested_bomb(target: Path, *, depth: int = 12) -> Path:
    """Write a zip in a zip in a zip."""
    data = b"\0" * 1000
    for level in range(depth):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{level}.zip" if level else "a.dcm", data)
        data = held.getvalue()
    target.write_bytes(data)
    return target


def cut_zip(path: Path, *, keep: float = 0.6) -> None:
    """Cut an archive off, and with it its directory, which stands at the end."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def encrypted_flag(path: Path) -> None:
    """Mark every member as encrypted, in its own header and in the directory."""
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.find(magic)
        while start >= 0:
            data[start + offset] |= 1
            start = data.find(magic, start + 4)
    path.write_bytes(bytes(data))
