"""What volumes are called, what is refused for its name, and that no folder, however odd, gives a traceback."""

from __future__ import annotations

import errno
import os
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from examples.scan_folders import KEY, find, h5, nifti, pairs, picture, row
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic.archives import zip_folder
from synthetic.folders import on_disc
from synthetic.series import blank, write_series

from samkit.stages.readers.archives import unpacked
from samkit.stages.readers.layouts import LayoutOptions, find_sources
from samkit.stages.readers.naming import identity_of_text
from samkit.store.errors import InputError, SamkitError, UsageError


@pytest.fixture
def closed(monkeypatch):
    """Make some folder one that this user may not list, as the system says it: the tests may run as root."""
    listed, chosen = os.scandir, []

    def scandir(place):
        if str(place) in map(str, chosen):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    return chosen.append


class TestFoldersThatCannotBeListed:
    """A network that is gone, or somebody else's permissions: a whole patient."""

    def test_are_refused_and_the_others_are_taken(self, tmp_path: Path, closed):
        nifti(tmp_path / "a/one.nii.gz", tmp_path / "b/other.nii.gz")
        closed(tmp_path / "b")
        found = find(tmp_path)
        assert len(found.sources) == 1
        assert row(found, "b").decision == "refused"
        assert row(found, "b").why.startswith("this folder cannot be listed (Permission denied)")

    def test_are_refused_where_there_is_nothing_else(self, tmp_path: Path, closed):
        closed(tmp_path)
        assert [shown for shown, _ in find(tmp_path).refused] == [tmp_path.name]

    def test_are_refused_once_beside_an_archive(self, tmp_path: Path, closed):
        nifti(tmp_path / "d/packed/one.nii.gz", tmp_path / "d/b/other.nii.gz")
        zip_folder(tmp_path / "d/packed", tmp_path / "d/more.zip")
        closed(tmp_path / "d/b")
        with unpacked(tmp_path / "d", tmp_path / "scratch") as content:
            assert [shown for shown, _ in content.refused] == ["b"]


def test_a_damaged_header_costs_its_own_file_while_a_folder_is_looked_at(tmp_path: Path):
    """ITK 5.4 writes past its arrays where a MetaImage claims many axes, and takes the process with it."""
    for name in ("good", "bad"):
        image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
        sitk.WriteImage(image, str(tmp_path / f"{name}.mha"))
    bad = tmp_path / "bad.mha"
    bad.write_bytes(bad.read_bytes().replace(b"NDims = 3", b"NDims = 93"))
    sizes = {one.shown: one.size for one in find(tmp_path).table}
    assert sizes == {"good.mha": "4 x 3 x 2", "bad.mha": ""}


def test_a_dicomdir_stands_for_the_folder_that_it_lies_in(tmp_path: Path):
    answer = on_disc(tmp_path / "disc")
    named, folder = (find(place) for place in (answer.root / "DICOMDIR", answer.root))
    assert len(named.sources) == len(answer.series)
    assert [source.id for source in named.sources] == [source.id for source in folder.sources]


class TestMoments:
    """Files that are called as those of one patient are, and are subjects of their own."""

    def test_are_told_with_what_to_type_and_without_their_names(self, tmp_path: Path):
        nifti(*(tmp_path / f"images/{name}.nii.gz" for name in ("p07_visit1", "p07_visit2", "p08_visit1", "p09")))
        (note,) = (note for note in find(tmp_path).notes if "called alike" in note)
        assert note.startswith("2 files are called alike but for their ends (_visit1, _visit2)")
        assert note.endswith(r"--subject '(.+?)([-_ ](visit\d+))?$'")
        assert "p07" not in note

    @pytest.mark.parametrize(
        "patients",
        [
            {"p07": ["p07_visit1", "p07_visit2"], "p08": ["p08"], "p_9": ["p_9"]},
            {"p07": ["p07_pre", "p07-post", "p07_t1c"], "p08": ["p08_pre"], "anna": ["anna"]},
            {"p_1": ["p_1_000", "p_1_001"], "p_2": ["p_2_000", "p_2_001"], "p_3": ["p_3"]},
        ],
    )
    def test_are_one_subject_with_what_to_type_and_the_others_stay(
        self, tmp_path: Path, patients: dict[str, list[str]]
    ):
        nifti(*(tmp_path / f"images/{name}.nii.gz" for names in patients.values() for name in names))
        (note,) = (note for note in find(tmp_path).notes if "called alike" in note)
        typed = shlex.split(note.partition("--subject ")[2])
        found = find(tmp_path, ids="stem", subject_regex=typed[0])
        of_subject = {name: [one.id for one in found.sources if one.subject == name] for name in patients}
        assert of_subject == {name: sorted(names) for name, names in patients.items()}
        assert not any("called alike" in note for note in found.notes)

    def test_pictures_of_slices_are_told(self, tmp_path: Path):
        names = [f"p0{patient}_{number:03}" for patient in (1, 2) for number in (0, 1)]
        picture(*(tmp_path / f"images/{name}.png" for name in names))
        (note,) = (note for note in find(tmp_path).notes if "called alike" in note)
        assert note.startswith("4 files are called alike but for their ends (_000, _001)")

    def test_patients_who_are_counted_are_not_told(self, tmp_path: Path):
        nifti(*(tmp_path / f"images/study2_{number:03}.nii.gz" for number in range(4)))
        assert not any("called alike" in note for note in find(tmp_path).notes)

    def test_folders_of_patients_are_told_with_what_to_type(self, tmp_path: Path):
        nifti(*(tmp_path / f"anna{number}/{name}.nii.gz" for number in (1, 2) for name in ("t1", "t2")))
        (note,) = (note for note in find(tmp_path).notes if "folders" in note)
        assert note.startswith("2 folders hold several files each")
        assert "--subject '([^/]+)/'" in note
        assert "anna" not in note
        found = find(tmp_path, subject_regex="([^/]+)/")
        assert len({source.subject for source in found.sources}) == 2
        assert len(found.sources) == 4
        assert not any("folders" in note for note in found.notes)

    def test_folders_of_unlike_files_are_not_told(self, tmp_path: Path):
        nifti(*(tmp_path / f"{name}.nii.gz" for name in ("a/one", "a/two", "b/three", "b/four")))
        assert not any("folders" in note for note in find(tmp_path).notes)

    def test_of_one_subject_already_are_not_told(self, tmp_path: Path):
        nifti(
            tmp_path / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            tmp_path / "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        )
        assert not any("called alike" in note for note in find(tmp_path).notes)


class TestIds:
    def test_stems_are_ids_when_asked(self, tmp_path: Path):
        nifti(tmp_path / "case1.nii.gz")
        (source,) = find(tmp_path, ids="stem").sources
        assert (source.id, source.subject) == ("case1", "case1")

    def test_hashes_are_ids_when_asked(self, tmp_path: Path):
        nifti(tmp_path / "images/case1.nii.gz")
        (source,) = find(tmp_path, ids="hash").sources
        assert (source.id[0], source.subject[0]) == ("v", "s")

    def test_identity_is_what_the_file_is_called_for_good(self, tmp_path: Path):
        nifti(tmp_path / "here/a.nii.gz", tmp_path / "there/a.nii.gz")
        here, there = (
            find(tmp_path / place, logical=lambda path: f"archive.zip/{path.name}").sources[0]
            for place in ("here", "there")
        )
        assert (here.id, here.identity) == (there.id, there.identity)
        assert here.id != find(tmp_path / "here").sources[0].id

    def test_frames_from_an_archive_are_still_one_subject(self, tmp_path: Path):
        nifti(tmp_path / "x/patient001_frame01.nii.gz", tmp_path / "x/patient001_frame12.nii.gz")
        found = find(tmp_path, logical=lambda path: f"archive.zip/{path.name}")
        assert len({source.subject for source in found.sources}) == 1

    def test_a_series_without_uids_is_the_same_in_every_unpacking(self, tmp_path: Path):
        write_series(tmp_path / "data/ct", change=blank("SeriesInstanceUID", "StudyInstanceUID"))
        plain = find(tmp_path / "data").sources[0].identity
        zip_folder(tmp_path / "data/ct", tmp_path / "packed/ct.zip")
        write_series(tmp_path / "packed/beside")
        identities = set()
        for _ in range(2):
            with unpacked(tmp_path / "packed", tmp_path / "scratch") as held:
                identities.add(frozenset(source.identity for source in find(held.root, logical=held.logical).sources))
        assert len(identities) == 1
        # A folder that was not packed is called the same whether or not archives lie beside it.
        zip_folder(tmp_path / "data/ct", tmp_path / "data/another.zip")
        with unpacked(tmp_path / "data", tmp_path / "scratch") as held:
            assert plain in {source.identity for source in find(held.root, logical=held.logical).sources}

    def test_the_name_of_an_archive_stands_for_its_folder(self, tmp_path: Path):
        write_series(tmp_path / "unpacked-0001")
        (source,) = find(
            tmp_path / "unpacked-0001",
            ids="stem",
            logical=lambda path: str(tmp_path / "ct.zip"),
            shown_root=tmp_path / "ct.zip",
        ).sources
        assert (source.id, source.shown) == ("ct", "ct.zip")


class TestNotes:
    def test_names_that_may_be_patients_are_hashed_and_it_is_said_how_to_keep_them(self, tmp_path: Path):
        nifti(tmp_path / "case1.nii.gz")
        (note,) = find(tmp_path).notes
        assert "--ids stem" in note
        assert "--id-map FILE" in note

    @pytest.mark.parametrize("ids", ["stem", "hash"])
    def test_who_chose_need_not_be_told(self, tmp_path: Path, ids: str):
        nifti(tmp_path / "case1.nii.gz")
        assert find(tmp_path, ids=ids).notes == ()

    def test_a_series_has_no_file_name_to_speak_of(self, tmp_path: Path):
        write_series(tmp_path)
        assert not any("--ids" in note for note in find(tmp_path).notes)

    def test_a_folder_of_labels_alone_is_told_the_command_for_labels(self, tmp_path: Path):
        nifti(tmp_path / "a_seg.nii.gz", tmp_path / "b_seg.nii.gz")
        found = find(tmp_path, shown_root=Path("my labels"))
        assert found.sources == []
        assert found.notes[-1].endswith("samkit ingest --labels-from 'my labels'")
        nifti(tmp_path / "b.nii.gz")
        assert not any("--labels-from" in note for note in find(tmp_path).notes)


class TestNames:
    """What a label of a hashed volume may be called, as keyed hashes."""

    def test_a_file_is_called_by_its_name_and_by_its_folder_and_name(self, tmp_path: Path):
        nifti(tmp_path / "d/case1.nii.gz")
        (source,) = find(tmp_path / "d").sources
        assert source.called == tuple(identity_of_text(KEY, "name", name) for name in ("d/case1", "case1"))

    def test_a_series_is_called_as_its_folder_is(self, tmp_path: Path):
        write_series(tmp_path / "d/ct")
        (source,) = find(tmp_path / "d").sources
        assert source.called == tuple(identity_of_text(KEY, "name", name) for name in ("d/ct", "ct"))

    def test_where_names_are_ids_nothing_else_is_kept(self, tmp_path: Path):
        nifti(tmp_path / "case1.nii.gz")
        assert find(tmp_path, ids="stem").sources[0].called == ()

    def test_another_key_knows_them_by_other_hashes(self, tmp_path: Path):
        nifti(tmp_path / "case1.nii.gz")
        other = find_sources(tmp_path, LayoutOptions(id_key=b"another key")).sources[0].called
        assert not set(other) & set(find(tmp_path).sources[0].called)


class TestWhereLabelsLie:
    def test_a_label_of_one_file_is_known_by_its_path(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz")
        (source,) = find(tmp_path).sources
        assert source.label is not None
        assert source.label.hashes == (identity_of_text(KEY, "path", str((tmp_path / "a_seg.nii.gz").resolve())),)

    def test_a_label_of_many_files_is_known_by_their_folder(self, tmp_path: Path):
        structures = (tmp_path / f"s0001/segmentations/{name}.nii.gz" for name in ("liver", "aorta"))
        nifti(tmp_path / "s0001/ct.nii.gz", *structures)
        (source,) = find(tmp_path).sources
        assert source.label is not None
        folder = (tmp_path / "s0001/segmentations").resolve()
        assert source.label.hashes == (identity_of_text(KEY, "folder", str(folder)),)


class TestSubjects:
    def test_the_first_group_is_the_subject(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/site2-p07-visit1.nii.gz")
        (source,) = find(tmp_path, subject_regex=r"(p\d+)-visit").sources
        assert source.subject == "p07"

    def test_without_a_group_the_whole_match_is(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/site2-p07-visit1.nii.gz")
        (source,) = find(tmp_path, subject_regex=r"p\d+").sources
        assert source.subject == "p07"

    def test_a_file_that_does_not_match_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/p07.nii.gz", tmp_path / "imagesTr/phantom.nii.gz")
        found = find(tmp_path, subject_regex=r"p\d+")
        assert pairs(found) == {"p07": None}
        assert found.refused[0][0] == "imagesTr/phantom.nii.gz"
        assert row(found, "imagesTr/phantom.nii.gz").decision == "refused"
        assert found.refused[0][1].startswith("--subject 'p\\d+' finds nothing in 'phantom' (with a / in it")

    def test_a_match_is_hashed_where_ids_are(self, tmp_path: Path):
        nifti(tmp_path / "p07_a.nii.gz", tmp_path / "p07_b.nii.gz")
        (subject,) = {source.subject for source in find(tmp_path, subject_regex=r"p\d+").sources}
        assert subject[0] == "s"

    def test_a_broken_expression_is_a_usage_error(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz")
        with pytest.raises(UsageError, match="--subject"):
            find(tmp_path, subject_regex="(")


class TestAnyPlace:
    def test_a_single_nifti_file_is_taken(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz")
        found = find(tmp_path / "a.nii.gz")
        assert (found.layout, found.sources[0].shown) == ("single file", "a.nii.gz")

    def test_a_single_h5_file_brings_its_label(self, tmp_path: Path):
        h5(tmp_path / "a.h5", "image", "label")
        (source,) = find(tmp_path / "a.h5").sources
        assert source.label is not None
        assert source.label.paths == (tmp_path / "a.h5",)

    def test_a_single_picture_is_taken(self, tmp_path: Path):
        picture(tmp_path / "a.png")
        assert find(tmp_path / "a.png").sources[0].reader == "picture"

    def test_a_single_dicom_slice_is_taken(self, tmp_path: Path):
        paths = write_series(tmp_path).paths
        assert find(paths[0]).sources[0].image == (paths[0],)

    def test_a_missing_folder_is_a_usage_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match="no such file or folder"):
            find(tmp_path / "nowhere")

    @pytest.mark.parametrize("names", [[], ["notes.txt", "scan.tar", ".hidden.nii.gz", "table.csv"]])
    def test_a_folder_with_nothing_usable_lists_what_is_understood(self, tmp_path: Path, names: list[str]):
        for name in names:
            (tmp_path / name).write_text("x")
        with pytest.raises(InputError, match=r"imagesTr.*BIDS.*3D-IRCADb.*NIfTI.*NRRD.*h5.*DICOM"):
            find(tmp_path)

    def test_a_file_of_no_kind_is_refused(self, tmp_path: Path):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(InputError, match="of no kind"):
            find(tmp_path / "a.txt")

    def test_archives_that_could_not_be_unpacked_are_refused_rows(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz")
        found = find(tmp_path, already_refused=(("b.zip", "it is damaged"),))
        assert found.refused == [("b.zip", "it is damaged")]
        assert row(found, "b.zip").why == "it is damaged"

    def test_nothing_but_a_damaged_archive_is_a_refused_row_too(self, tmp_path: Path):
        found = find(tmp_path, already_refused=(("b.zip", "it is damaged"),))
        assert (found.sources, found.refused) == ([], [("b.zip", "it is damaged")])

    def test_messages_name_what_the_user_typed(self, tmp_path: Path):
        (tmp_path / "unpacked").mkdir()
        with pytest.raises(InputError, match=r"^typed\.zip: the folder holds nothing"):
            find(tmp_path / "unpacked", shown_root=Path("typed.zip"))
        nifti(tmp_path / "unpacked/imagesTr/a.nii.gz")
        (tmp_path / "unpacked/dataset.json").write_text("{")
        with pytest.raises(InputError, match=r"^typed\.zip/dataset\.json: not readable"):
            find(tmp_path / "unpacked", shown_root=Path("typed.zip"))

    def test_the_key_is_not_printed(self):
        assert "0123456789" not in repr(LayoutOptions(id_key=KEY))


# -- folders that nobody meant ---------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        *("imagesTr", "labelsTr", "images", "labels", "masks", "sub-01", "anat", "derivatives", "img", "label"),
        *("PATIENT_DICOM", "MASKS_DICOM", "LABELLED_DICOM", "liver", "3Dircadb1.1", "PATIENT_DICOM.zip"),
        *("DICOM_anon", "Ground", "InPhase", "T1DUAL", "CT", "1", "patient001", "testing", "segmentations", "s0001"),
        *("Ä ö", "x y"),
    ]
)
NAMES = st.sampled_from(
    [
        *("a.nii.gz", "a_seg.nii.gz", "a_0000.nii.gz", "img0001.nii.gz", "label0001.nii.gz", "ct.nii.gz", "mask.nii"),
        *("patient001_frame01.nii.gz", "patient001_frame01_gt.nii.gz", "patient001_4d.nii.gz", "Info.cfg", "meta.csv"),
        *("a.nrrd", "a.seg.nrrd", "a.mha", "a.png", "a_mask.png", "1.tif", "a.jpg", "a.h5", "case0001.npy.h5"),
        *("image_0", "1.dcm", "IM1.ima", "dataset.json", "x", "_seg.nii.gz", ".nii.gz", "seg.dcm"),
    ]
)
CONTENTS = st.sampled_from([b"", b"x", b"\0" * 400, b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\0", b"ED: 1\nES: 9"])
FILES = st.lists(st.tuples(st.lists(PARTS, max_size=4), NAMES, CONTENTS), max_size=12)


@settings(max_examples=200, deadline=None)
@given(FILES, st.booleans())
def test_a_folder_of_odd_files_is_understood_or_refused_in_words(files, stems: bool):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts, name, content in files:
            path = root.joinpath(*parts, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_dir():
                path.write_bytes(content)
        try:
            found = find(root, ids="stem" if stems else "auto")
        except SamkitError as error:
            assert str(error)
            return
        assert len({source.id for source in found.sources}) == len(found.sources)
        assert len(found.table) == len(found.sources) + len(found.refused)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "layout", "volumes", "labelled", "subjects"),
    [
        ("hippocampus", "images and labels", 30, 30, 30),
        ("acdc/volumes", "h5 volumes", 100, 100, 50),
        ("spleen", "BIDS", 1, 1, 1),
        ("sct", "NIfTI files", 1, 1, 1),
        ("dicom2nifti/generic/compressed_rle/001", "DICOM series", 1, 0, 1),
    ],
)
def test_real_folders_are_understood(shared_data: Path, name, layout, volumes, labelled, subjects):
    found = find(shared_data / name)
    assert found.layout == layout
    assert len(found.sources) == volumes
    assert sum(source.label is not None for source in found.sources) == labelled
    assert len({source.subject for source in found.sources}) == subjects
    assert found.refused == []
    assert all(row.size for row in found.table)
