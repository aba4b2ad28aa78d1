"""Archives become folders: what comes out, which file is which, and all that an archive may try."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samkit.stages.readers.archives import ArchiveLimits, Unpacked, is_archive, unpacked
from samkit.store.errors import DiskFull, SamkitError, UnreadableFile

Write = Callable[[Path, dict[str, bytes]], Path]


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip that holds these members."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return written.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """Return a tar that holds these members."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return written.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zipped(members))
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path = path.with_suffix(".tar.gz")
    path.write_bytes(tarred(members))
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by its path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def opened(source: Path, limits: ArchiveLimits | None = None) -> Iterator[Unpacked]:
    """Unpack beside the source."""
    with unpacked(source, source.parent / "scratch", limits=limits or ArchiveLimits()) as found:
        yield found


def refusal(source: Path, limits: ArchiveLimits | None = None) -> str:
    """Return why a source is refused; nothing of it may be left behind."""
    with pytest.raises(UnreadableFile) as caught, opened(source, limits):
        pass
    assert content(source.parent / "scratch") == {}
    return str(caught.value)


class TestASourceThatIsNotPacked:
    def test_a_folder_stays_as_it_is(self, tmp_path: Path):
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / "a.dcm").write_bytes(b"a")
        with opened(tmp_path / "scans") as found:
            assert found.root == tmp_path / "scans"
            assert found.logical(found.root / "a.dcm") == str((tmp_path / "scans" / "a.dcm").resolve())
        assert (found.told, found.refused) == ((), ())
        assert not (tmp_path / "scratch").exists()

    def test_a_file_stays_as_it_is(self, tmp_path: Path):
        (tmp_path / "a.nii.gz").write_bytes(b"a")
        with opened(tmp_path / "a.nii.gz") as found:
            assert found.root == tmp_path / "a.nii.gz"
        assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("write", [write_zip, write_tar])
class TestASourceThatIsAnArchive:
    def test_its_content_is_a_folder(self, tmp_path: Path, write: Write):
        members = {"a.dcm": b"first", "deep/er/b.dcm": b"second", "deep/empty": b""}
        with opened(write(tmp_path / "study.zip", members)) as found:
            assert content(found.root) == members
            assert found.root.name == "study"
        assert "1 archive unpacked: 3 files" in found.told[0]

    def test_everything_is_gone_in_the_end(self, tmp_path: Path, write: Write):
        with opened(write(tmp_path / "study.zip", {"a.dcm": b"first"})) as found:
            pass
        assert not found.root.exists()
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_everything_is_gone_after_an_error_too(self, tmp_path: Path, write: Write):
        source = write(tmp_path / "study.zip", {"a.dcm": b"first"})
        with pytest.raises(ZeroDivisionError), opened(source):
            1 / 0  # noqa: B018
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_only_the_user_can_read_it(self, tmp_path: Path, write: Write):
        with opened(write(tmp_path / "study.zip", {"deep/er/b.dcm": b"second"})) as found:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in found.root.rglob("*")}
            assert modes == {"deep": 0o700, "er": 0o700, "b.dcm": 0o600}
            assert stat.S_IMODE(found.root.parent.stat().st_mode) == 0o700

    def test_a_folder_packed_under_its_own_name_is_the_root(self, tmp_path: Path, write: Write):
        with opened(write(tmp_path / "study.zip", {"study/imagesTr/a.nii": b"a"})) as found:
            assert content(found.root) == {"imagesTr/a.nii": b"a"}

    def test_a_folder_of_its_name_beside_others_is_not(self, tmp_path: Path, write: Write):
        members = {"study/a.nii": b"a", "labels/a.nii": b"b"}
        with opened(write(tmp_path / "study.zip", members)) as found:
            assert content(found.root) == members

    def test_a_scratch_folder_that_is_a_link_does_no_harm(self, tmp_path: Path, write: Write):
        source = write(tmp_path / "study.zip", {"a.dcm": b"a"})
        (tmp_path / "real").mkdir()
        (tmp_path / "linked").symlink_to(tmp_path / "real")
        with unpacked(source, tmp_path / "linked") as found:
            assert found.logical(found.root / "a.dcm") == f"{source.resolve()}!/a.dcm"

    def test_a_folder_packed_under_another_name_stays(self, tmp_path: Path, write: Write):
        with opened(write(tmp_path / "study.zip", {"sub-01/anat/a.nii": b"a"})) as found:
            assert content(found.root) == {"sub-01/anat/a.nii": b"a"}

    def test_hidden_files_and_what_macos_adds_are_left_out(self, tmp_path: Path, write: Write):
        members = {
            "a.dcm": b"a",
            "__MACOSX/._a.dcm": b"x",
            "__MACOSX/b": b"x",
            ".DS_Store": b"x",
            "b/._c.dcm": b"x",
            ".git/d": b"x",
        }
        with opened(write(tmp_path / "study.zip", members)) as found:
            assert content(found.root) == {"a.dcm": b"a"}

    def test_names_in_any_letters_are_kept(self, tmp_path: Path, write: Write):
        members = {"肝臓/画像 1.dcm": b"a", "Schädel/é.dcm": b"b", "a b'c\".dcm": b"c"}
        with opened(write(tmp_path / "study.zip", members)) as found:
            assert content(found.root) == members

    def test_names_that_differ_in_capitals_are_two_files(self, tmp_path: Path, write: Write):
        (tmp_path / "probe").touch()
        if (tmp_path / "PROBE").exists():
            pytest.skip("this disk does not tell capitals apart")
        members = {"IMAGE_1": b"a", "image_1": b"b"}
        with opened(write(tmp_path / "study.zip", members)) as found:
            assert content(found.root) == members

    def test_a_detour_in_a_name_is_straightened(self, tmp_path: Path, write: Write):
        with opened(write(tmp_path / "study.zip", {"./a/./b.dcm": b"a"})) as found:
            assert content(found.root) == {"a/b.dcm": b"a"}

    def test_what_is_said_of_a_file_is_the_same_in_every_run(self, tmp_path: Path, write: Write):
        source = write(tmp_path / "study.zip", {"study/a.dcm": b"a", "study/b/c.dcm": b"c"})
        said = []
        for _ in range(2):
            with opened(source) as found:
                said.append([found.logical(found.root / name) for name in ("a.dcm", "b/c.dcm", "b", ".")])
        real = source.resolve()
        assert said[0] == said[1]
        assert said[0] == [f"{real}!/study/a.dcm", f"{real}!/study/b/c.dcm", f"{real}!/study/b", f"{real}!/study"]

    def test_progress_goes_up_to_all_bytes(self, tmp_path: Path, write: Write):
        seen: list[tuple[int, int]] = []
        source = write(tmp_path / "study.zip", {"a": os.urandom(3 << 20), "b": b"b"})
        with unpacked(source, tmp_path, progress=lambda done, known: seen.append((done, known))):
            pass
        assert seen == sorted(seen)
        assert seen[-1] == ((3 << 20) + 1, (3 << 20) + 1)


@pytest.mark.parametrize(
    ("ending", "mode"),
    [(".tar", "w"), (".tar.gz", "w:gz"), (".TGZ", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")],
)
def test_a_tar_may_be_compressed_in_any_usual_way(tmp_path: Path, ending: str, mode: str):
    (tmp_path / f"Task09_Spleen{ending}").write_bytes(tarred({"Task09_Spleen/dataset.json": b"{}"}, mode))
    with opened(tmp_path / f"Task09_Spleen{ending}") as found:
        assert content(found.root) == {"dataset.json": b"{}"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_may_be_compressed_in_any_usual_way(tmp_path: Path, compression: int):
    data = np.arange(1 << 18, dtype=np.int64).tobytes()
    (tmp_path / "a.zip").write_bytes(zipped({"a.dcm": data}, compression))
    with opened(tmp_path / "a.zip") as found:
        assert content(found.root) == {"a.dcm": data}


def test_archives_are_told_by_their_endings():
    names = ("a.zip", "a.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.7z", "a.nii.gz", "a.gz", "zip")
    assert [name for name in names if is_archive(Path(name))] == list(names[:6])


class TestAFolderThatHoldsArchives:
    def ircad(self, root: Path) -> Path:
        """One patient in the layout of 3D-IRCADb-01."""
        home = root / "3Dircadb1" / "3Dircadb1.1"
        write_zip(home / "PATIENT_DICOM.zip", {f"PATIENT_DICOM/image_{k}": bytes([k]) for k in range(3)})
        masks = {f"MASKS_DICOM/{name}/image_{k}": b"m" for name in ("liver", "livertumor01") for k in range(3)}
        write_zip(home / "MASKS_DICOM.zip", masks)
        (home / "readme.pdf").write_bytes(b"%PDF")
        (root / "3Dircadb1" / "plain").mkdir()
        (root / "3Dircadb1" / "plain" / "image_0").write_bytes(b"p")
        return root / "3Dircadb1"

    def test_every_archive_is_a_folder_of_its_stem_in_one_tree(self, tmp_path: Path):
        with opened(self.ircad(tmp_path)) as found:
            files = content(found.root)
        assert files["3Dircadb1.1/PATIENT_DICOM/PATIENT_DICOM/image_2"] == b"\2"
        assert files["3Dircadb1.1/MASKS_DICOM/MASKS_DICOM/livertumor01/image_0"] == b"m"
        assert files["plain/image_0"] == b"p"
        assert len(files) == 3 + 6 + 2
        assert found.root.name == "3Dircadb1"
        assert "2 archives unpacked: 9 files" in found.told[0]

    def test_what_was_not_packed_is_a_link_to_the_file_itself(self, tmp_path: Path):
        with opened(self.ircad(tmp_path)) as found:
            link = found.root / "plain" / "image_0"
            assert link.is_symlink()
            assert link.resolve() == (tmp_path / "3Dircadb1" / "plain" / "image_0").resolve()

    def test_what_is_said_of_a_file_is_where_the_user_has_it(self, tmp_path: Path):
        with opened(self.ircad(tmp_path)) as found:
            said = [
                found.logical(found.root / inside)
                for inside in (
                    "plain/image_0",
                    "plain",
                    "3Dircadb1.1/PATIENT_DICOM/PATIENT_DICOM/image_0",
                    "3Dircadb1.1/PATIENT_DICOM",
                )
            ]
        real = str((tmp_path / "3Dircadb1").resolve())
        assert said == [
            f"{real}/plain/image_0",
            f"{real}/plain",
            f"{real}/3Dircadb1.1/PATIENT_DICOM.zip!/PATIENT_DICOM/image_0",
            f"{real}/3Dircadb1.1/PATIENT_DICOM.zip!",
        ]

    def test_a_source_may_be_named_from_where_the_user_is(self, tmp_path: Path, monkeypatch):
        real = self.ircad(tmp_path).resolve()
        monkeypatch.chdir(tmp_path)
        with unpacked(Path("3Dircadb1"), Path("scratch")) as found:
            assert (found.root / "plain" / "image_0").read_bytes() == b"p"
            said = found.logical(found.root / "3Dircadb1.1" / "MASKS_DICOM" / "MASKS_DICOM")
        assert said == f"{real}/3Dircadb1.1/MASKS_DICOM.zip!/MASKS_DICOM"

    def test_the_source_is_not_touched(self, tmp_path: Path):
        source = self.ircad(tmp_path)
        before = content(source)
        with opened(source):
            pass
        assert content(source) == before

    def test_one_that_is_damaged_costs_itself_only(self, tmp_path: Path):
        source = self.ircad(tmp_path)
        (source / "3Dircadb1.1" / "MESHES_VTK.zip").write_bytes(b"PK\3\4 and no more")
        with opened(source) as found:
            assert "3Dircadb1.1/PATIENT_DICOM/PATIENT_DICOM/image_0" in content(found.root)
            assert not (found.root / "3Dircadb1.1" / "MESHES_VTK").exists()
        ((shown, reason),) = found.refused
        assert shown == "3Dircadb1.1/MESHES_VTK.zip"
        assert "truncated or damaged" in reason
        assert "/" not in reason.replace("and/or", "")

    def test_one_that_breaks_in_the_middle_leaves_nothing_behind(self, tmp_path: Path):
        source = self.ircad(tmp_path)
        data = bytearray(zipped({"a": b"first", "b": b"second" * 99}, zipfile.ZIP_STORED))
        data[data.index(b"second")] ^= 1  # its checksum no longer fits
        (source / "broken.zip").write_bytes(data)
        with opened(source) as found:
            assert not (found.root / "broken").exists()
        assert found.refused[0][0] == "broken.zip"
        assert "at member 2" in found.refused[0][1]
        assert "2 archives unpacked: 9 files" in found.told[0]

    def test_one_beside_a_folder_of_its_name_is_taken_as_unpacked_and_said(self, tmp_path: Path):
        source = self.ircad(tmp_path)
        write_zip(source / "plain.zip", {"plain/image_0": b"p"})
        with opened(source) as found:
            assert len(content(found.root)) == 3 + 6 + 2
        assert found.told[1] == "1 archive beside a folder of that name: taken as unpacked there already (plain.zip)"

    def test_where_all_are_unpacked_already_nothing_is_copied(self, tmp_path: Path):
        write_zip(tmp_path / "scans" / "a.zip", {"a.dcm": b"a"})
        (tmp_path / "scans" / "a").mkdir()
        with opened(tmp_path / "scans") as found:
            assert found.root == tmp_path / "scans"
        assert "taken as unpacked" in found.told[0]

    def test_two_of_one_stem_do_not_meet(self, tmp_path: Path):
        write_zip(tmp_path / "scans" / "a.zip", {"one": b"1"})
        (tmp_path / "scans" / "a.tar").write_bytes(tarred({"two": b"2"}, "w"))
        (tmp_path / "scans" / "b").write_bytes(b"a file")
        write_zip(tmp_path / "scans" / "b.zip", {"three": b"3"})
        with opened(tmp_path / "scans") as found:
            files = content(found.root)
        assert files == {"a/two": b"2", "a.unpacked1/one": b"1", "b": b"a file", "b.unpacked1/three": b"3"}

    def test_hidden_ones_are_left_alone(self, tmp_path: Path):
        write_zip(tmp_path / "scans" / ".cache" / "a.zip", {"one": b"1"})
        write_zip(tmp_path / "scans" / "._b.zip", {"one": b"1"})
        with opened(tmp_path / "scans") as found:
            assert found.root == tmp_path / "scans"

    def test_what_lies_in_a_linked_folder_is_there_and_a_loop_does_no_harm(self, tmp_path: Path):
        write_zip(tmp_path / "scans" / "a.zip", {"one": b"1"})
        write_zip(tmp_path / "elsewhere" / "b.zip", {"two": b"2"})
        (tmp_path / "elsewhere" / "x").write_bytes(b"x")
        (tmp_path / "scans" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "scans" / "again").symlink_to(tmp_path / "scans" / "linked")
        (tmp_path / "scans" / "loop").symlink_to(tmp_path / "scans" / "loop")
        (tmp_path / "scans" / "up").symlink_to("..")
        elsewhere = (tmp_path / "elsewhere").resolve()
        with opened(tmp_path / "scans") as found:
            assert found.told[0].startswith("2 archives unpacked: 2 files")
            assert (found.root / "again" / "x").read_bytes() == b"x"
            assert (found.root / "again" / "b" / "two").read_bytes() == b"2"
            assert found.logical(found.root / "again" / "x") == str(elsewhere / "x")
            assert found.logical(found.root / "again") == str(elsewhere)
            assert found.logical(found.root / "again" / "b" / "two") == f"{elsewhere / 'b.zip'}!/two"
            assert not (found.root / "linked").exists()
            assert not (found.root / "up").exists()

    def test_a_link_to_an_archive_is_known_by_the_archive(self, tmp_path: Path):
        write_zip(tmp_path / "elsewhere" / "a.zip", {"one": b"1"})
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / "b.zip").symlink_to(tmp_path / "elsewhere" / "a.zip")
        with opened(tmp_path / "scans") as found:
            assert found.logical(found.root / "b" / "one") == f"{(tmp_path / 'elsewhere' / 'a.zip').resolve()}!/one"

    def test_a_link_to_an_archive_that_is_gone_is_a_row(self, tmp_path: Path):
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / "b.zip").symlink_to(tmp_path / "gone.zip")
        with opened(tmp_path / "scans") as found:
            pass
        assert found.refused[0][0] == "b.zip"

    @pytest.mark.parametrize(("name", "command"), [("a.7z", "7z x"), ("a.RAR", "unrar x")])
    def test_other_archives_are_rows_with_the_command(self, tmp_path: Path, name: str, command: str):
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / name).write_bytes(b"7z")
        with opened(tmp_path / "scans") as found:
            assert found.root == tmp_path / "scans"
        assert found.refused[0][0] == name
        assert command in found.refused[0][1]

    @pytest.mark.parametrize("ending", [".dcm.gz", ".IMA.GZ"])
    def test_a_series_of_files_compressed_one_by_one_is_a_row_of_its_folder(self, tmp_path: Path, ending: str):
        for name in ("pat/1", "pat/2", "pat/3", "other/1"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}{ending}").write_bytes(gzip.compress(b"x"))
        with opened(tmp_path) as found:
            assert found.root == tmp_path
        assert [shown for shown, _ in found.refused] == [f"other/1{ending}", f"pat/1{ending}"]
        assert "(gunzip FILE)" in found.refused[0][1]
        assert "2 more beside it" in found.refused[1][1]
        assert "more" not in found.refused[0][1]


class TestArchivesInArchives:
    def test_they_are_folders_too(self, tmp_path: Path):
        inner = zipped({"PATIENT_DICOM/image_0": b"i"})
        source = write_zip(tmp_path / "3Dircadb1.zip", {"3Dircadb1/3Dircadb1.1/PATIENT_DICOM.zip": inner})
        with opened(source) as found:
            assert content(found.root) == {"3Dircadb1.1/PATIENT_DICOM/PATIENT_DICOM/image_0": b"i"}
            said = found.logical(found.root / "3Dircadb1.1/PATIENT_DICOM/PATIENT_DICOM/image_0")
        assert said == f"{source.resolve()}!/3Dircadb1/3Dircadb1.1/PATIENT_DICOM.zip!/PATIENT_DICOM/image_0"

    def test_a_tar_in_a_zip_too(self, tmp_path: Path):
        with opened(write_zip(tmp_path / "a.zip", {"b.tgz": tarred({"c": b"c"})})) as found:
            assert content(found.root) == {"b/c": b"c"}

    def nested(self, levels: int) -> bytes:
        data = b"at the bottom"
        for level in range(levels):
            data = zipped({"next.zip" if level else "bottom": data})
        return data

    def test_four_deep_are_unpacked(self, tmp_path: Path):
        (tmp_path / "next.zip").write_bytes(self.nested(4))
        with opened(tmp_path / "next.zip") as found:
            assert list(content(tmp_path / "scratch").values()) == [b"at the bottom"]
        assert found.refused == ()

    def test_what_lies_deeper_is_a_row(self, tmp_path: Path):
        (tmp_path / "next.zip").write_bytes(self.nested(5))
        with opened(tmp_path / "next.zip") as found:
            assert content(tmp_path / "scratch") == {}
        ((shown, reason),) = found.refused
        assert shown == "next.zip/next.zip/next.zip/next.zip/next.zip"
        assert "up to 4 deep" in reason

    def test_one_that_is_damaged_costs_itself_only(self, tmp_path: Path):
        source = write_zip(tmp_path / "a.zip", {"good.zip": zipped({"x": b"x"}), "bad.zip": b"PK", "y": b"y"})
        with opened(source) as found:
            assert content(found.root) == {"good/x": b"x", "y": b"y"}
        assert found.refused[0][0] == "a.zip/bad.zip"

    def test_one_beside_its_own_folder_is_taken_as_unpacked(self, tmp_path: Path):
        source = write_zip(tmp_path / "a.zip", {"b.zip": zipped({"x": b"new"}), "b/x": b"old"})
        with opened(source) as found:
            assert content(found.root) == {"b/x": b"old"}
        assert "a.zip/b.zip" in found.told[1]

    def test_two_of_one_stem_do_not_meet(self, tmp_path: Path):
        members = {
            "b.zip": zipped({"x": b"1"}),
            "b.tar": tarred({"x": b"2"}, "w"),
            "c": b"c",
            "c.zip": zipped({"d": b"d"}),
        }
        with opened(write_zip(tmp_path / "a.zip", members)) as found:
            assert content(found.root) == {"b/x": b"2", "b.unpacked1/x": b"1", "c": b"c", "c.unpacked1/d": b"d"}

    def test_another_kind_in_it_is_a_row(self, tmp_path: Path):
        with opened(write_zip(tmp_path / "a.zip", {"b/c.7z": b"7z"})) as found:
            pass
        assert found.refused[0][0] == "a.zip/b/c.7z"

    def test_so_are_files_compressed_one_by_one(self, tmp_path: Path):
        with opened(write_zip(tmp_path / "a.zip", {"b/1.dcm.gz": b"1", "b/2.dcm.gz": b"2"})) as found:
            pass
        ((shown, reason),) = found.refused
        assert shown == "a.zip/b/1.dcm.gz"
        assert "1 more beside it" in reason

    def test_a_name_that_would_move_the_cursor_is_shown_without(self, tmp_path: Path):
        with opened(write_zip(tmp_path / "a.zip", {"\x1b[2Jb.zip": b"PK"})) as found:
            pass
        assert found.refused[0][0] == "a.zip/?[2Jb.zip"


class TestNamesThatLeadElsewhere:
    @pytest.mark.parametrize("write", [write_zip, write_tar])
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("/etc/cron.d/x", "an absolute path"),
            ("C:/x", "an absolute path"),
            ("../x", r"leads out"),
            ("a/../../x", r"leads out"),
            ("a/..", r"leads out"),
            ("a\\..\\..\\x", "backslashes"),
            ("\\\\server\\x", "backslashes"),
        ],
    )
    def test_the_whole_archive_is_refused(self, tmp_path: Path, write: Write, name: str, says: str):
        source = write(tmp_path / "DOE_JANE.zip", {"fine": b"1", name: b"2"})
        said = refusal(source)
        assert said.startswith(f"{source}: member 2 has")
        assert says in said
        assert name not in said
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, "scratch"])

    @pytest.mark.parametrize("name", ["...zip", ".zip", "a..zip", ". .zip"])
    def test_the_name_of_the_archive_itself_leads_nowhere(self, tmp_path: Path, name: str):
        with opened(write_zip(tmp_path / name, {"x": b"1"})) as found:
            assert content(found.root) == {"x": b"1"}
            assert len(found.root.relative_to((tmp_path / "scratch").resolve()).parts) == 2

    def test_a_null_byte_does_not_hide_what_follows(self, tmp_path: Path):
        data = zipped({"fine.dcmX/../../x": b"1"}).replace(b"fine.dcmX", b"fine.dcm\0")
        (tmp_path / "a.zip").write_bytes(data)
        with opened(tmp_path / "a.zip") as found:
            assert content(found.root) == {"fine.dcm": b"1"}
        assert [path.name for path in tmp_path.rglob("x")] == []

    def test_a_file_without_a_name_is_refused(self, tmp_path: Path):
        data = bytearray(zipped({"a": b"1"}))
        directory = data.index(b"PK\1\2")
        for lengths in (26, directory + 28):  # one byte less of name, one more of what follows it
            struct.pack_into("<HH", data, lengths, 0, 1)
        (tmp_path / "a.zip").write_bytes(data)
        assert "member 1 has no name" in refusal(tmp_path / "a.zip")

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
    def test_links_and_devices_in_a_zip_are_refused(self, tmp_path: Path, kind: int):
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(info, "/etc/passwd")
            file.writestr("link/x", "written through it")
        assert ("member 1 is a link" if kind == stat.S_IFLNK else "a device or a pipe") in refusal(tmp_path / "a.zip")

    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    )
    def test_links_and_devices_in_a_tar_are_refused(self, tmp_path: Path, kind: bytes):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc"
        with tarfile.open(tmp_path / "a.tar", "w") as file:
            file.addfile(info)
        is_link = kind in {tarfile.SYMTYPE, tarfile.LNKTYPE}
        assert ("member 1 is a link" if is_link else "a device or a pipe") in refusal(tmp_path / "a.tar")

    @given(
        names=st.lists(
            st.one_of(
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
                st.lists(
                    st.sampled_from(
                        ["..", ".", "", "a", "C:", "\\", "/", "~", "a.zip", "b" * 300, "\0", "\n", "con", ".x"]
                    ),
                    min_size=1,
                    max_size=6,
                )
                .map("/".join)
                .filter(bool),
            ),
            min_size=1,
            max_size=4,
            unique=True,
        ),
        is_tar=st.booleans(),
    )
    @example(names=["../outside"], is_tar=False)
    @example(names=["a", "a/b"], is_tar=True)
    @settings(max_examples=200, deadline=None)
    def test_no_name_ever_leads_out_of_the_scratch_folder(self, tmp_path_factory, names: list[str], is_tar: bool):
        home = tmp_path_factory.mktemp("home")
        scratch = home / "deep" / "er" / "scratch"
        members = dict.fromkeys(names, b"planted")
        source = home / ("a.tar" if is_tar else "a.zip")
        source.write_bytes(tarred(members, "w") if is_tar else zipped(members))
        try:
            with unpacked(source, scratch) as found:
                assert found.root.is_relative_to(scratch.resolve())
                assert all(path.resolve().is_relative_to(scratch.resolve()) for path in found.root.rglob("*"))
                left = {path for path in home.rglob("*") if not path.is_relative_to(scratch)}
        except SamkitError:
            left = set(home.rglob("*"))
        assert {path for path in left if path.is_file()} == {source}
        absolute = [name for name in names if name.startswith("/") and "\0" not in name]
        assert not any(os.path.isfile(name) for name in absolute)  # noqa: PTH113 (Path.is_file fails on long names)
        shutil.rmtree(home)


class TestNamesThatMeet:
    def repeated(self, path: Path, first: bytes, second: bytes) -> Path:
        with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a/b.dcm", first)
            file.writestr("a/b.dcm", second)
        return path

    def test_the_same_file_twice_is_one(self, tmp_path: Path):
        with opened(self.repeated(tmp_path / "x.zip", b"1", b"1")) as found:
            assert content(found.root) == {"a/b.dcm": b"1"}

    def test_two_files_of_one_name_are_refused(self, tmp_path: Path):
        assert "member 2 has the path of member 1" in refusal(self.repeated(tmp_path / "a.zip", b"1", b"2"))

    def test_in_a_tar_too(self, tmp_path: Path):
        with tarfile.open(tmp_path / "a.tar", "w") as file:
            for data in (b"1", b"2"):
                info = tarfile.TarInfo("b.dcm")
                info.size = 1
                file.addfile(info, io.BytesIO(data))
        assert "member 2 has the path of member 1" in refusal(tmp_path / "a.tar")

    @pytest.mark.parametrize("members", [{"a": b"1", "a/b": b"2"}, {"a/b": b"1", "a": b"2"}])
    def test_a_file_and_a_folder_of_one_name_are_refused(self, tmp_path: Path, members: dict[str, bytes]):
        assert "member 2 has the path of" in refusal(write_zip(tmp_path / "x.zip", members))

    def test_a_disk_that_takes_two_names_for_one_overwrites_nothing(self, tmp_path: Path, monkeypatch):
        make = os.open

        def without_capitals(path: Path, *options: int, **others: int) -> int:
            return make(str(path).lower() if options[0] & os.O_EXCL else path, *options, **others)

        source = write_zip(tmp_path / "x.zip", {"image": b"1", "IMAGE": b"2"})
        monkeypatch.setattr("samkit.stages.readers.archives.os.open", without_capitals)
        monkeypatch.setattr("tempfile._get_candidate_names", lambda: iter(["lower"]))
        assert "member 2 has the path of an earlier one (on this disk)" in refusal(source)


class TestDamage:
    @pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
    def test_a_truncated_archive_is_named_and_to_be_copied_again(self, tmp_path: Path, ending: str, share: float):
        # Eleven: so many fill a tar but for one block, and what is cut off is not just the zeros at its end.
        members = {f"{k}.dcm": np.random.default_rng(k).bytes(3000) for k in range(11)}
        whole = zipped(members) if ending == ".zip" else tarred(members, f"w:{ending[5:]}")
        (tmp_path / f"study{ending}").write_bytes(whole[: int(len(whole) * share)])
        said = refusal(tmp_path / f"study{ending}")
        assert f"study{ending}: it is truncated or damaged" in said
        assert "copy it again" in said

    @pytest.mark.parametrize("kept_blocks", [1, 2, 7, 8])
    def test_a_tar_that_ends_between_two_members_is_not_taken_for_whole(self, tmp_path: Path, kept_blocks: int):
        # Each member has a block of header and six of data; the library takes the file's end for the end of the tar.
        whole = tarred({f"{k}.dcm": bytes(3000) for k in range(9)}, "w")
        (tmp_path / "a.tar").write_bytes(whole[: kept_blocks * 512])
        assert "truncated or damaged" in refusal(tmp_path / "a.tar")

    def test_a_damaged_header_within_a_tar_is_not_taken_for_its_end(self, tmp_path: Path):
        whole = bytearray(tarred({f"{k}.dcm": bytes(3000) for k in range(9)}, "w"))
        whole[7 * 512 + 3] ^= 0xFF  # in the name of the second member: its checksum no longer fits
        (tmp_path / "a.tar").write_bytes(whole)
        assert "damaged at member 2" in refusal(tmp_path / "a.tar")

    def test_a_name_of_megabytes_is_damage(self, tmp_path: Path):
        # The library reads the header that holds a long name at once, of whatever size that says it is.
        (tmp_path / "a.tar").write_bytes(tarred({"b" * (2 << 20): b"1"}, "w"))
        assert "truncated or damaged" in refusal(tmp_path / "a.tar")

    def test_a_checksum_that_does_not_fit_is_damage(self, tmp_path: Path):
        data = bytearray(zipped({"a": b"first", "b": b"second"}, zipfile.ZIP_STORED))
        data[data.index(b"second")] ^= 1
        (tmp_path / "a.zip").write_bytes(data)
        assert "damaged at member 2" in refusal(tmp_path / "a.zip")

    def test_what_is_no_archive_is_damage(self, tmp_path: Path):
        (tmp_path / "a.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        assert "(43 bytes)" in refusal(tmp_path / "a.zip")

    @given(
        data=st.binary(max_size=400), changes=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=6)
    )
    @settings(max_examples=150, deadline=None)
    def test_damage_never_ends_in_another_error_than_ours(self, tmp_path_factory, data: bytes, changes):
        folder = tmp_path_factory.mktemp("damaged")
        for ending, whole in ((".zip", zipped({"a": data, "b/c": b"c"})), (".tar", tarred({"a": data}, "w"))):
            broken = bytearray(whole)
            for place, byte in changes:
                broken[place % len(broken)] = byte
            (folder / f"a{ending}").write_bytes(broken)
            try:
                with opened(folder / f"a{ending}"):
                    pass
            except SamkitError as error:
                assert f"a{ending}" in str(error)


class TestWhatCannotBeUnpacked:
    def flagged(self, path: Path, *, flag: int = 0, method: int = 0) -> Path:
        """Write a zip whose one member claims to be encrypted, or to be compressed by some method."""
        data = bytearray(zipped({"a": b"1"}, zipfile.ZIP_STORED))
        directory = data.index(b"PK\1\2")
        for start, offset in ((0, 6), (directory, 8)):
            struct.pack_into("<HH", data, start + offset, flag, method)
        path.write_bytes(data)
        return path

    def test_an_encrypted_one_is_refused_with_what_to_do(self, tmp_path: Path):
        said = refusal(self.flagged(tmp_path / "a.zip", flag=1))
        assert "member 1 is encrypted" in said
        assert "7z x" in said

    @pytest.mark.parametrize("method", [9, 97])
    def test_a_compression_that_python_does_not_know_is_refused(self, tmp_path: Path, method: int):
        assert f"by method {method}" in refusal(self.flagged(tmp_path / "a.zip", method=method))

    @pytest.mark.parametrize(("name", "command"), [("a.7z", "7z x"), ("a.rar", "unrar x"), ("1.dcm.gz", "gunzip")])
    def test_other_archives_are_refused_with_the_command(self, tmp_path: Path, name: str, command: str):
        (tmp_path / name).write_bytes(b"7z")
        assert command in refusal(tmp_path / name)

    def test_a_name_that_the_disk_cannot_hold_is_refused(self, tmp_path: Path):
        said = refusal(write_zip(tmp_path / "a.zip", {"b" * 300: b"1"}))
        assert "name of member 1 is one that this disk cannot hold" in said


class TestLimits:
    def test_as_many_files_as_allowed_are_unpacked_and_no_more(self, tmp_path: Path):
        source = write_zip(tmp_path / "a.zip", {str(k): b"1" for k in range(5)})
        with opened(source, ArchiveLimits(members=5)):
            pass
        assert "more than 4 packed files" in refusal(source, ArchiveLimits(members=4))

    @pytest.mark.parametrize("write", [write_zip, write_tar])
    def test_as_many_bytes_as_allowed_are_unpacked_and_no_more(self, tmp_path: Path, write: Write):
        source = write(tmp_path / "a.zip", {str(k): bytes(100) for k in range(5)})
        with opened(source, ArchiveLimits(total_bytes=500)):
            pass
        assert "member 5" in refusal(source, ArchiveLimits(total_bytes=499))

    @pytest.mark.parametrize("limits", [ArchiveLimits(members=4), ArchiveLimits(total_bytes=499)])
    def test_what_a_zip_declares_is_enough_to_refuse_it_before_a_byte_is_written(self, tmp_path: Path, limits):
        source = write_zip(tmp_path / "a.zip", {str(k): bytes(100) for k in range(5)})
        seen: list[int] = []
        with (
            pytest.raises(UnreadableFile),
            unpacked(source, tmp_path / "scratch", limits=limits, progress=lambda done, _: seen.append(done)),
        ):
            pass
        assert seen == []

    def test_the_count_goes_over_all_archives_of_a_folder(self, tmp_path: Path):
        for name in "abc":
            write_zip(tmp_path / "scans" / f"{name}.zip", {str(k): bytes(100) for k in range(5)})
        with opened(tmp_path / "scans", ArchiveLimits(members=12)) as found:
            assert len(content(found.root)) == 10
        assert [shown for shown, _ in found.refused] == ["c.zip"]

    def test_what_is_refused_does_not_count(self, tmp_path: Path):
        for name, members in (("a", 9), ("b", 5)):
            write_zip(tmp_path / "scans" / f"{name}.zip", {str(k): b"1" for k in range(members)})
        with opened(tmp_path / "scans", ArchiveLimits(members=8)) as found:
            assert len(content(found.root)) == 5
        assert [shown for shown, _ in found.refused] == ["a.zip"]

    def test_the_count_goes_over_archives_in_archives(self, tmp_path: Path):
        inner = zipped({str(k): bytes(100) for k in range(5)})
        source = write_zip(tmp_path / "a.zip", {"b.zip": inner, "c.zip": inner})
        with opened(source, ArchiveLimits(members=8)) as found:
            assert len(content(found.root)) == 5
        assert [shown for shown, _ in found.refused] == ["a.zip/c.zip"]

    def test_a_member_that_grows_too_much_is_a_bomb(self, tmp_path: Path):
        (tmp_path / "a.zip").write_bytes(zipped({"fine": b"1", "bomb": bytes(10**7)}, zipfile.ZIP_BZIP2))
        said = refusal(tmp_path / "a.zip", ArchiveLimits(ratio_bytes=10**6))
        assert "member 2 unpacks to 10,000,000 bytes" in said
        assert "decompression bomb" in said

    def test_a_small_member_may_grow_by_any_ratio(self, tmp_path: Path):
        (tmp_path / "a.zip").write_bytes(zipped({"empty mask": bytes(10**7)}, zipfile.ZIP_BZIP2))
        with opened(tmp_path / "a.zip") as found:
            assert content(found.root) == {"empty mask": bytes(10**7)}

    def test_many_members_that_grow_too_much_together_are_a_bomb(self, tmp_path: Path):
        (tmp_path / "a.zip").write_bytes(zipped({str(k): bytes(10**6) for k in range(10)}, zipfile.ZIP_BZIP2))
        assert "it unpacks to 10,000,000 bytes" in refusal(tmp_path / "a.zip", ArchiveLimits(ratio_bytes=10**6))

    def test_a_tar_that_grows_too_much_is_a_bomb(self, tmp_path: Path):
        (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(tarred({"a": b"1", "b": bytes(10**7)}, "w")))
        said = refusal(tmp_path / "a.tar.bz2", ArchiveLimits(ratio_bytes=10**6))
        assert "member 2 unpacks to 10,000,001 bytes" in said

    def test_a_hidden_bomb_in_a_tar_is_one_too(self, tmp_path: Path):
        (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(tarred({".hidden": bytes(10**7)}, "w")))
        assert "decompression bomb" in refusal(tmp_path / "a.tar.bz2", ArchiveLimits(ratio_bytes=10**6))

    def test_members_that_share_their_bytes_are_refused(self, tmp_path: Path):
        # One kernel of data, counted by two entries of the directory.
        data = zipped({"a": bytes(10**5), "b": bytes(10**5)})
        first, second = (index for index in range(len(data)) if data.startswith(b"PK\1\2", index))
        shared = bytearray(data)
        shared[second + 42 : second + 46] = shared[first + 42 : first + 46]
        (tmp_path / "a.zip").write_bytes(shared)
        assert "lie over one another" in refusal(tmp_path / "a.zip")

    def lying(self, path: Path, declared: int) -> Path:
        """Write a zip whose one member says that it has so many bytes; it has 1000."""
        data = bytearray(zipped({"a": bytes(range(250)) * 4}))
        directory = data.index(b"PK\1\2")
        struct.pack_into("<I", data, 22, declared)
        struct.pack_into("<I", data, directory + 24, declared)
        path.write_bytes(data)
        return path

    @pytest.mark.parametrize("declared", [10, 999, 1001, 10**6])
    def test_a_declared_size_that_is_not_true_is_damage(self, tmp_path: Path, declared: int):
        assert "truncated or damaged at member 1" in refusal(self.lying(tmp_path / "a.zip", declared))

    def test_the_bytes_that_come_out_are_counted_whatever_was_declared(self, tmp_path: Path, monkeypatch):
        class Endless(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                return bytes(size)

        source = write_zip(tmp_path / "a.zip", {"a": b"1234"})
        monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: Endless())
        assert "truncated or damaged at member 1" in refusal(source)


class TestRoom:
    @pytest.fixture
    def free(self, monkeypatch) -> Callable[[int], None]:
        def say(free_bytes: int) -> None:
            usage = type(shutil.disk_usage("/"))(total=10**12, used=0, free=free_bytes)
            monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

        return say

    @pytest.mark.parametrize("write", [write_zip, write_tar])
    def test_too_little_is_said_before_anything_is_written(self, tmp_path: Path, free, write: Write):
        source = write(tmp_path / "a.zip", {"a": os.urandom(5000), "b": os.urandom(5000)})
        free(9000)
        with (
            pytest.raises(
                DiskFull, match=r"scratch: unpacking takes 0\.01\d* MB at least, and 0\.009 MB are free.*another disk"
            ),
            opened(source),
        ):
            pass
        assert content(tmp_path / "scratch") == {}

    def test_what_a_compressed_tar_only_tells_as_it_is_read_counts(self, tmp_path: Path, free):
        source = write_tar(tmp_path / "a.zip", {"a": bytes(10**6)})
        free(10**5)
        with pytest.raises(DiskFull), opened(source):
            pass
        assert content(tmp_path / "scratch") == {}

    def test_of_a_folder_all_archives_count(self, tmp_path: Path, free):
        for name in "abc":
            write_zip(tmp_path / "scans" / f"{name}.zip", {"a": os.urandom(5000)})
        free(14_000)
        with pytest.raises(DiskFull), opened(tmp_path / "scans"):
            pass
        free(16_000)
        with opened(tmp_path / "scans") as found:
            assert len(content(found.root)) == 3

    def test_archives_in_archives_count(self, tmp_path: Path, free):
        source = write_zip(tmp_path / "a.zip", {"b.zip": zipped({"c": bytes(10**6)})})
        free(10**5)
        with pytest.raises(DiskFull), opened(source):
            pass
        assert content(tmp_path / "scratch") == {}

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_a_disk_that_fills_up_meanwhile_is_said(self, tmp_path: Path, monkeypatch, number: int):
        def full(*_: object) -> int:
            raise OSError(number, "full")

        source = write_zip(tmp_path / "a.zip", {"a": b"1"})
        monkeypatch.setattr("samkit.stages.readers.archives.os.open", full)
        with pytest.raises(DiskFull), opened(source):
            pass
