"""`samkit ingest` and `samkit init` as a user types them."""

from __future__ import annotations

import csv
import json
import os
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from synthetic.archives import escaping, zip_folder
from synthetic.catalogue import CATALOGUE
from synthetic.challenges import write_acdc, write_synapse
from synthetic.four_d import echoes
from synthetic.ircadb import PATIENTS, write_ircadb
from synthetic.irregular import mixed_orientations, tilted
from synthetic.label_objects import rectangle, write_rtstruct, write_seg
from synthetic.series import stored_ct, write_series

import samkit as package
from samkit.pipeline.config import read_config
from samkit.stages.readers.geometry import Orientation

WINDOW = ("--window", "soft-tissue")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one series that is taken and one that is refused."""
    write_series(tmp_path / "mixed" / "good")
    echoes(tmp_path / "mixed" / "echoes", 1)
    return tmp_path / "mixed"


def volumes(workspace: Path | str = "samkit-workspace"):
    return package.open_workspace(workspace).volumes


class TestTriage:
    def test_a_dry_run_prints_every_series_and_writes_nothing(self, samkit, mixed, tmp_path):
        finished = samkit("ingest", mixed, "--dry-run", *WINDOW, "--workspace", tmp_path / "w")
        assert "taken" in finished.out
        assert "--echo 1 (2.46 ms), 2 (4.92 ms), 3 (7.38 ms)" in " ".join(finished.out.split())
        assert "1 would be taken, 1 refused, as far as headers tell; nothing was written" in finished.out
        assert not (tmp_path / "w").exists()

    @pytest.mark.parametrize("more", [(), ("--dry-run",)])
    def test_what_was_refused_gives_exit_code_3_unless_it_is_allowed(self, samkit, mixed, more):
        assert samkit("ingest", mixed, *WINDOW, *more).code == 3
        assert samkit("ingest", mixed, *WINDOW, *more, "--allow-refused").code == 0

    def test_json_holds_what_was_taken_and_why_not(self, samkit, mixed):
        told = json.loads(samkit("ingest", mixed, *WINDOW, "--json").out)
        assert [one["slices"] for one in told["taken"]] == [6]
        assert "4-D" in told["refused"][0]["reason"]

    def test_a_dry_run_in_json_holds_the_table(self, samkit, mixed):
        told = json.loads(samkit("ingest", mixed, "--dry-run", "--json", *WINDOW).out)
        assert {row["decision"] for row in told["series"]} == {"taken", "refused"}

    def test_a_dry_run_refuses_what_the_options_refuse(self, samkit, mixed):
        said = " ".join(samkit("ingest", mixed, "--dry-run", "--require-labels").out.split())
        assert "a CT needs a window" in said
        assert "--require-labels asks for one" in said
        assert "0 would be taken, 2 refused" in said

    def test_a_dry_run_refuses_files_and_labels_whose_header_cannot_be_read(self, samkit, write_pair, tmp_path):
        data = tmp_path / "data"
        for seed, name in enumerate("ab"):
            write_pair(data, name, seed=seed)
        (data / "imagesTr/b.nii.gz").write_bytes(b"")
        (data / "labelsTr/a.nii.gz").write_bytes(b"text")
        said = samkit("ingest", data, "--dry-run").said
        assert "its header cannot be read: it is damaged, or no file of what its name says" in said
        assert "the header of its label cannot be read" in said
        assert "0 would be taken, 2 refused" in said

    def test_a_dry_run_refuses_a_label_on_another_grid_as_the_run_does(self, samkit, write_pair, tmp_path):
        data = tmp_path / "data"
        for seed, name in enumerate("ab"):
            write_pair(data, name, seed=seed)
        write_pair(tmp_path / "other", "a", affine=np.diag([-1.5, -1.5, 4.0, 1.0]))
        (tmp_path / "other/labelsTr/a.nii.gz").replace(data / "labelsTr/a.nii.gz")
        dry, run = (json.loads(samkit("ingest", data, "--json", *more).out) for more in (["--dry-run"], []))
        assert [row["why"] for row in dry["series"] if row["decision"] == "refused"] == [
            one["reason"] for one in run["refused"]
        ]
        assert "--resample-labels" in run["refused"][0]["reason"]

    def test_a_dry_run_takes_what_is_resampled_or_was_before(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "data", "a")
        write_pair(tmp_path / "other", "a", affine=np.diag([-1.5, -1.5, 4.0, 1.0]))
        (tmp_path / "other/labelsTr/a.nii.gz").replace(tmp_path / "data/labelsTr/a.nii.gz")
        resampled = ("ingest", tmp_path / "data", "--resample-labels")
        assert [samkit(*resampled, "--dry-run").code, samkit(*resampled).code] == [0, 0]
        assert samkit("ingest", tmp_path / "data", "--dry-run").code == 0
        write_pair(tmp_path / "data", "b", seed=1)  # said of one label, it does not hold for the next
        write_pair(tmp_path / "other", "b", affine=np.diag([-1.5, -1.5, 4.0, 1.0]))
        (tmp_path / "other/labelsTr/b.nii.gz").replace(tmp_path / "data/labelsTr/b.nii.gz")
        for more in (("--dry-run",), ()):
            finished = samkit("ingest", tmp_path / "data", *more)
            assert finished.code == 3
            assert "--resample-labels" in finished.said

    @pytest.mark.parametrize("window", [(), WINDOW])
    def test_a_dry_run_and_the_run_judge_a_colour_map_among_cts_alike(self, samkit, tmp_path, window):
        CATALOGUE["rgb by pixel"](tmp_path / "scans", 0)
        for path in (tmp_path / "scans").rglob("*.dcm"):
            dataset = dcmread(path)
            dataset.Modality = "CT"
            dataset.save_as(path)
        for more in (("--dry-run",), ()):
            finished = samkit("ingest", tmp_path / "scans", *window, *more)
            assert finished.code == 0, finished.said

    def test_a_check_without_an_ingest_is_refused(self, samkit, mixed):
        finished = samkit("ingest", mixed, "--check", "--dry-run")
        assert finished.code == 2
        assert "leave one of them out" in finished.said

    def test_a_volume_of_a_4d_series_is_chosen(self, samkit, mixed):
        assert samkit("ingest", mixed, *WINDOW, "--echo", "2").code == 0
        assert {volume.record.modality: volume.ingest_recipe["volume"] for volume in volumes().values()} == {
            "CT": {},
            "MR": {"echo": 2},
        }

    def test_another_echo_is_another_volume(self, samkit, mixed):
        samkit("ingest", mixed, *WINDOW, "--echo", "2")
        samkit("ingest", mixed, *WINDOW, "--echo", "3")
        assert len(volumes()) == 3


class TestIdentity:
    """Which volume a source is, whatever lies beside it and whatever was typed."""

    @pytest.mark.parametrize("folders", [("a", "b"), ("b", "a"), (".",)], ids=["a, b", "b, a", "together"])
    @pytest.mark.parametrize("seed_of_patient", [1, None], ids=["two patients", "two studies of one patient"])
    def test_two_scans_under_one_series_uid_are_two_volumes_in_any_order(
        self, samkit, tmp_path, folders, seed_of_patient
    ):
        first = write_series(tmp_path / "d/a", seed=0)
        other = write_series(tmp_path / "d/b", seed=1)
        changed(
            other.paths,
            SeriesInstanceUID=first.series_uid,
            **({} if seed_of_patient else {"PatientID": first.patient_id}),
        )
        for name in folders:
            assert samkit("ingest", tmp_path / "d" / name, *WINDOW).code == 0
        assert len(volumes()) == 2
        assert len({volume.subject for volume in volumes().values()}) == (2 if seed_of_patient else 1)
        ids = set(volumes())
        samkit("ingest", tmp_path / "d", *WINDOW, "--workspace", tmp_path / "w")
        assert set(volumes(tmp_path / "w")) == ids

    def test_a_scan_that_takes_the_place_of_another_with_all_its_uids_is_told(self, samkit, tmp_path):
        first = write_series(tmp_path / "a", seed=0)
        other = write_series(tmp_path / "b", seed=1)
        changed(
            other.paths,
            SeriesInstanceUID=first.series_uid,
            StudyInstanceUID=first.study_uid,
            PatientID=first.patient_id,
        )
        samkit("ingest", tmp_path / "a", *WINDOW)
        finished = samkit("ingest", tmp_path / "b", *WINDOW)
        assert "new pixels" in finished.said
        assert "another scan that bears the same UIDs" in finished.said

    @pytest.mark.parametrize("again", ["more slices", "another window"])
    def test_a_scan_that_changed_for_a_known_reason_is_not_suspected(self, samkit, tmp_path, again):
        series = write_series(tmp_path / "a")
        if again == "more slices":
            hidden = [path.rename(tmp_path / path.name) for path in (series.paths[0], series.paths[-1])]
            samkit("ingest", tmp_path / "a", *WINDOW)
            for path in hidden:
                path.rename(tmp_path / "a" / path.name)
            finished = samkit("ingest", tmp_path / "a", *WINDOW)
        else:
            samkit("ingest", tmp_path / "a", *WINDOW)
            finished = samkit("ingest", tmp_path / "a", "--window", "bone")
        assert "new pixels" in finished.said
        assert "another scan" not in finished.said
        assert len(volumes()) == 1

    def test_stray_slices_make_no_second_volume_of_a_scan(self, samkit, tmp_path):
        series = write_series(tmp_path / "a")
        samkit("ingest", tmp_path / "a", *WINDOW)
        stray = write_series(
            tmp_path / "a", stored=stored_ct((9, 9, 1)), name=lambda k, _: "0", part=lambda k: "stray", seed=0
        )
        assert stray.series_uid == series.series_uid
        assert "1 taken (1 unchanged" in samkit("ingest", tmp_path / "a", *WINDOW).said

    def test_a_choice_that_was_not_needed_changes_nothing(self, samkit, write_pair, tmp_path):
        write_series(tmp_path / "d/ct")
        write_pair(tmp_path / "pairs", "a")
        samkit("ingest", tmp_path / "d", *WINDOW)
        assert "1 taken (1 unchanged" in samkit("ingest", tmp_path / "d", *WINDOW, "--echo", "1").said
        pairs = ("ingest", tmp_path / "pairs", "--workspace", tmp_path / "w")
        samkit(*pairs)
        assert "1 taken (1 unchanged" in samkit(*pairs, "--time-index", "0").said

    @pytest.mark.parametrize("option", ["--time-index", "--channel"])
    def test_which_volume_of_a_4d_file_was_taken_is_kept(self, samkit, tmp_path, option):
        (tmp_path / "d").mkdir()
        values = np.random.default_rng(0).normal(100, 10, (12, 10, 4, 3)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "d/a.nii")
        assert samkit("ingest", tmp_path / "d", option, "2", "--echo", "1").code == 0
        (volume,) = volumes().values()
        assert volume.ingest_recipe["volume"] == {option.removeprefix("--").replace("-", "_"): 2}

    def test_which_file_of_several_channels_was_taken_is_kept(self, samkit, tmp_path):
        for kind, names in (("imagesTr", ("a_0000", "a_0001", "b_0001")), ("labelsTr", ("a", "b"))):
            (tmp_path / "d" / kind).mkdir(parents=True)
            for seed, name in enumerate(names):
                values = np.random.default_rng(seed).integers(0, 2, (12, 10, 4)).astype(np.uint8)
                nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"d/{kind}/{name}.nii.gz")
        assert samkit("ingest", tmp_path / "d", "--channel", "1").code == 0
        chosen = [volume.ingest_recipe["volume"] for volume in volumes().values()]
        assert sorted(chosen, key=len) == [{}, {"channel": 1}]

    @pytest.mark.parametrize("of", [0, 1])
    def test_labels_of_one_stack_of_a_series_come_later_and_alone(self, samkit, tmp_path, of):
        answers = mixed_orientations(tmp_path / "d")
        assert samkit("ingest", tmp_path / "d", *WINDOW).code == 0
        write_seg(tmp_path / "new/seg.dcm", answers[of], {"liver": np.ones(answers[of].values.shape, bool)})
        finished = samkit("ingest", "--labels-from", tmp_path / "new")
        assert finished.code == 0, finished.said
        (labelled,) = (volume for volume in volumes().values() if volume.labelled)
        affine = np.asarray(labelled.record.source_grid["affine"])
        np.testing.assert_allclose(affine, answers[of].affine, atol=1e-4)


def changed(paths, **values: str) -> None:
    for path in paths:
        dataset = dcmread(path)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


class TestPrivateFiles:
    def test_the_id_map_leads_back_to_files_and_patients(self, samkit, mixed, tmp_path):
        samkit("ingest", mixed, *WINDOW, "--id-map", tmp_path / "private" / "map.csv")
        rows = list(csv.DictReader((tmp_path / "private" / "map.csv").open()))
        assert [row["id"] for row in rows] == list(volumes())
        assert rows[0]["source"] == "good"
        assert rows[0]["patient_id"]
        assert rows[0]["series_uid"]

    def test_what_was_refused_is_written_on_request(self, samkit, mixed, tmp_path):
        samkit("ingest", mixed, *WINDOW, "--refused", tmp_path / "refused.csv")
        rows = list(csv.DictReader((tmp_path / "refused.csv").open()))
        assert [row["source"] for row in rows] == ["echoes"]
        assert "4-D" in rows[0]["reason"]

    @pytest.mark.parametrize("flag", ["--id-map", "--refused"])
    def test_they_are_for_the_user_alone(self, samkit, mixed, tmp_path, flag):
        samkit("ingest", mixed, *WINDOW, flag, tmp_path / "private.csv")
        assert stat.S_IMODE((tmp_path / "private.csv").stat().st_mode) == 0o600

    @pytest.mark.parametrize("flag", ["--id-map", "--refused"])
    def test_they_are_not_written_into_the_workspace(self, samkit, mixed, tmp_path, flag):
        finished = samkit("ingest", mixed, *WINDOW, flag, tmp_path / "w/private.csv", "--workspace", tmp_path / "w")
        assert finished.code == 2
        assert "inside the workspace" in finished.said
        assert not (tmp_path / "w").exists()

    def test_names_that_are_no_text_are_written_too(self, samkit, tmp_path):
        (tmp_path / "d").mkdir()
        values = np.random.default_rng(0).normal(100, 10, (12, 10, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "plain.nii")
        os.rename(os.fsencode(tmp_path / "plain.nii"), os.fsencode(tmp_path / "d") + b"/a\xfc.nii")  # noqa: PTH104
        finished = samkit("ingest", tmp_path / "d", "--id-map", tmp_path / "map.csv")
        assert finished.code == 0, finished.said
        assert b"a\xfc.nii" in (tmp_path / "map.csv").read_bytes()

    def test_a_folder_is_no_file_and_nothing_is_read_for_it(self, samkit, mixed, tmp_path):
        assert samkit("ingest", mixed, *WINDOW, "--id-map", tmp_path).code == 2
        assert not Path("samkit-workspace").exists()


class TestArchives:
    def test_a_zip_gives_the_volumes_of_its_folder(self, samkit, mixed, tmp_path):
        samkit("ingest", mixed, *WINDOW, "--workspace", tmp_path / "a")
        samkit("ingest", zip_folder(mixed, tmp_path / "mixed.zip"), *WINDOW, "--workspace", tmp_path / "b")
        one, other = volumes(tmp_path / "a"), volumes(tmp_path / "b")
        assert list(one) == list(other)  # DICOM goes by its series, wherever it lies
        assert [volume.record for volume in one.values()] == [volume.record for volume in other.values()]

    def test_the_same_zip_again_is_unchanged(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "pairs", "a")
        packed = zip_folder(tmp_path / "pairs", tmp_path / "pairs.zip")
        samkit("ingest", packed)
        assert "1 taken (1 unchanged" in samkit("ingest", packed).said

    def test_nothing_that_was_unpacked_stays(self, samkit, mixed, tmp_path):
        samkit("ingest", zip_folder(mixed, tmp_path / "mixed.zip"), *WINDOW, "--workspace", tmp_path / "w")
        assert not list(tmp_path.glob(".samkit*"))

    def test_a_zip_that_would_write_elsewhere_is_refused(self, samkit, tmp_path):
        escaping(tmp_path / "evil.zip")
        before = {path for path in tmp_path.parent.rglob("*") if "evil" not in path.name}
        finished = samkit("ingest", tmp_path / "evil.zip", "--workspace", tmp_path / "w")
        assert finished.code == 1
        assert "leads out of it" in finished.said or "out of" in finished.said
        assert {path for path in tmp_path.parent.rglob("*") if "evil" not in path.name} == before


class TestLabelObjects:
    def test_a_segmentation_is_the_label_of_its_series(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        mask = np.zeros(series.values.shape, bool)
        mask[4:9, 5:11, 2:4] = True
        write_seg(tmp_path / "d" / "seg.dcm", series, {"liver": mask}, order="descending")
        finished = samkit("ingest", tmp_path / "d", *WINDOW)
        assert finished.code == 0, finished.said
        (volume,) = volumes().values()
        assert volume.label_names == {1: "liver"}
        assert np.count_nonzero(volume.read_label()) == mask.sum()

    def test_segments_that_overlap_need_a_rule(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        liver, tumour = np.zeros(series.values.shape, bool), np.zeros(series.values.shape, bool)
        liver[4:12, 5:11, 2:4] = True
        tumour[6:8, 6:8, 2:4] = True
        write_seg(tmp_path / "d" / "seg.dcm", series, {"liver": liver, "tumour": tumour})
        finished = samkit("ingest", tmp_path / "d", *WINDOW)
        assert finished.code == 3
        assert "--overlap last" in finished.said
        assert samkit("ingest", tmp_path / "d", *WINDOW, "--overlap", "last").code == 0
        (volume,) = volumes().values()
        assert np.count_nonzero(volume.read_label() == 2) == tumour.sum()

    def test_contours_are_the_label_of_their_series(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        write_rtstruct(tmp_path / "d" / "rt.dcm", series, {"GTV": [rectangle(k, (4, 8), (5, 9)) for k in (2, 3)]})
        assert samkit("ingest", tmp_path / "d", *WINDOW).code == 0
        (volume,) = volumes().values()
        assert volume.label_names == {1: "GTV"}
        assert np.count_nonzero(volume.read_label()) == 2 * 5 * 5

    def test_an_export_without_structures_costs_its_own_volume_alone(self, samkit, tmp_path):
        for seed, name in enumerate(("p1", "p2")):
            series = write_series(tmp_path / "d" / name / "ct", seed=seed)
            write_rtstruct(
                tmp_path / "d" / name / "rt.dcm", series, {"GTV": [rectangle(k, (4, 8), (5, 9)) for k in (2, 3)]}
            )
        isocentre = dcmread(tmp_path / "d/p1/rt.dcm")
        for contour in isocentre.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType, contour.NumberOfContourPoints = "POINT", 1
            contour.ContourData = contour.ContourData[:3]
        isocentre.save_as(tmp_path / "d/p1/rt.dcm")
        finished = samkit("ingest", tmp_path / "d", *WINDOW)
        assert finished.code == 3, finished.said
        assert "the label holds no structures at all" in finished.said
        assert "the image is taken without a label" in finished.said
        assert [volume.label_names for volume in volumes().values()] == [{1: "GTV"}]

    def test_a_window_is_for_the_ct_of_a_pet_ct(self, samkit, tmp_path):
        write_series(tmp_path / "d" / "ct")
        write_series(tmp_path / "d" / "pet", modality="PT", seed=1)
        finished = samkit("ingest", tmp_path / "d", *WINDOW)
        assert finished.code == 0, finished.said
        assert "modality PT, no CT: the window is left aside" in finished.said
        rules = {volume.record.modality: volume.ingest_recipe["windows"] for volume in volumes().values()}
        assert bool(rules["CT"])
        assert not rules["PT"]

    def test_a_selection_that_fits_nothing_is_wrong_usage(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        write_seg(tmp_path / "d" / "seg.dcm", series, {"liver": np.ones(series.values.shape, bool)})
        finished = samkit("ingest", tmp_path / "d", *WINDOW, "--labels", "spleen=spleen*")
        assert finished.code == 2
        assert "The structures there are: liver" in finished.said


class TestLayouts:
    def test_3d_ircadb_gives_liver_and_tumour_of_each_patient(self, samkit, tmp_path):
        patients = write_ircadb(tmp_path / "d")
        finished = samkit("ingest", tmp_path / "d", *WINDOW, "--subject", r"(\d+)$", "--ids", "stem")
        assert finished.code == 0, finished.said
        by_size = sorted(
            (np.count_nonzero(one.read_label()), np.count_nonzero(one.read_label() == 2)) for one in volumes().values()
        )
        expected = sorted(
            (np.count_nonzero(one.liver | one.liver_tumour), np.count_nonzero(one.liver_tumour)) for one in patients
        )
        assert by_size == expected
        assert next(iter(volumes().values())).label_names == {1: "liver", 2: "tumour"}

    def test_synapse_keeps_its_split_and_training_uses_it(self, samkit, tmp_path):
        write_synapse(tmp_path / "d")
        assert samkit("ingest", tmp_path / "d", "--window", "synapse").code == 0
        split = package.open_workspace("samkit-workspace").split("synapse-18-12")
        assert split is not None
        assert split.test
        samkit("embed", "--size", "64")
        train = samkit("train-head", "linear", "--volumes", "1", "--steps", "2", "--split", "synapse-18-12")
        assert train.code == 0, train.said
        (run,) = package.open_workspace("samkit-workspace").runs.values()
        assert run.settings.split == "synapse-18-12"

    def test_acdc_gives_two_volumes_a_subject(self, samkit, tmp_path):
        write_acdc(tmp_path / "d")
        assert samkit("ingest", tmp_path / "d").code == 0
        assert len(volumes()) == 2 * len({volume.subject for volume in volumes().values()})

    def test_pictures_with_masks_keep_their_colours(self, samkit, tmp_path):
        (tmp_path / "d/images").mkdir(parents=True)
        (tmp_path / "d/masks").mkdir()
        colours = np.random.default_rng(0).integers(0, 256, (18, 24, 3), np.uint8)
        mask = np.zeros((18, 24), np.uint8)
        mask[3:9, 4:10] = 1
        Image.fromarray(colours).save(tmp_path / "d/images/a.png")
        Image.fromarray(mask).save(tmp_path / "d/masks/a.png")
        assert samkit("ingest", tmp_path / "d").code == 0
        (volume,) = volumes().values()
        assert volume.image.shape == (1, 3, 18, 24)
        np.testing.assert_allclose(volume.image[0], colours.transpose(2, 0, 1) / 255, atol=1e-3)
        assert np.array_equal(volume.read_label()[0], mask)


class TestIntensity:
    def test_three_windows_are_three_channels_and_can_be_embedded(self, samkit, tmp_path):
        series = write_series(tmp_path / "d")
        assert samkit("ingest", tmp_path / "d", "--channels", "lung,soft-tissue,bone").code == 0
        (volume,) = volumes().values()
        assert volume.image.shape[1] == 3
        soft = np.clip((series.values + 160) / 400, 0, 1)
        assert sorted(np.unique(volume.image[:, 1].astype(np.float32))) == pytest.approx(
            sorted(np.unique(soft.astype(np.float16).astype(np.float32)))
        )
        assert samkit("embed", "--size", "64").code == 0

    def test_not_a_number_is_counted_and_replaced_by_choice(self, samkit, tmp_path):
        values = np.random.default_rng(0).normal(100, 10, (12, 10, 4)).astype(np.float32)
        values[2, 3, 1] = np.nan
        tmp_path.joinpath("d").mkdir()
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "d/a.nii.gz")
        assert "1 NaN" in samkit("ingest", tmp_path / "d").said
        assert samkit("ingest", tmp_path / "d", "--non-finite", "lowest").code == 0

    def test_an_mr_beside_a_ct_keeps_its_own_scale(self, samkit, tmp_path):
        write_series(tmp_path / "d/ct", seed=0)
        write_series(tmp_path / "d/mr", seed=1, modality="MR")
        finished = samkit("ingest", tmp_path / "d", *WINDOW)
        rules = {
            volume.record.modality: volume.ingest_recipe["intensities"][0]["rule"] for volume in volumes().values()
        }
        assert rules == {"CT": "window", "MR": "percentiles"}
        assert "the window is left aside" in " ".join(finished.said.split())

    def test_the_other_way_of_scaling_is_said_when_it_changes(self, samkit, tmp_path):
        write_series(tmp_path / "d")
        samkit("ingest", tmp_path / "d", "--window", "lung")
        assert "window 1500/-600 -> 400/40" in samkit("ingest", tmp_path / "d", "--window", "abdomen").said


class TestLabelsFrom:
    @pytest.fixture
    def unlabelled(self, tmp_path, samkit, write_pair) -> Path:
        """Two embedded volumes; the labels of both lie in another folder."""
        for seed, name in enumerate(("a", "b", "c", "d")):
            write_pair(tmp_path / "d", name, seed=seed)
        (tmp_path / "d/labelsTr").rename(tmp_path / "labels")
        samkit("ingest", tmp_path / "d", "--ids", "stem")
        samkit("embed", "--size", "64")
        return tmp_path / "labels"

    def test_labels_come_later_and_nothing_is_encoded_again(self, samkit, unlabelled, rows_of):
        before = rows_of(Path("samkit-workspace"))
        finished = samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        assert finished.code == 0, finished.said
        assert all(volume.labelled and volume.label_names == {1: "organ"} for volume in volumes().values())
        after = rows_of(Path("samkit-workspace"))
        assert all(np.array_equal(before[name], after[name]) for name in before)
        assert "0 slices embedded" in samkit("embed", "--size", "64").said
        assert samkit("train-head", "linear", "--volumes", "1", "--steps", "2").code == 0

    def test_a_window_in_samkit_toml_is_no_window_for_labels(self, samkit, unlabelled):
        Path("samkit.toml").write_text('[ingest]\nwindow = "soft-tissue"\n')
        assert samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ").code == 0
        assert samkit("ingest", "--labels-from", unlabelled, *WINDOW).code == 2

    def test_the_labels_are_those_of_an_ingest_in_one_go(self, samkit, unlabelled, tmp_path):
        samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        unlabelled.rename(tmp_path / "d/labelsTr")
        samkit("ingest", tmp_path / "d", "--labels", "1=organ", "--workspace", tmp_path / "w")
        later, at_once = volumes(), volumes(tmp_path / "w")
        assert {name: one.record.label_digest for name, one in later.items()} == {
            name: one.record.label_digest for name, one in at_once.items()
        }

    def test_a_corrected_label_makes_runs_stale(self, samkit, unlabelled):
        samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        samkit("train-head", "linear", "--volumes", "1", "--steps", "2")
        for path in unlabelled.glob("*.nii.gz"):
            image = nib.load(path)
            values = np.asarray(image.dataobj).copy()
            values[0, 0, 0] = 1
            nib.save(nib.Nifti1Image(values, image.affine), path)
        finished = samkit("ingest", "--labels-from", unlabelled)
        assert finished.code == 0, finished.said
        assert "new label" in finished.said
        assert "stale" in samkit("status").said

    def test_the_same_labels_again_change_nothing(self, samkit, unlabelled, files_of):
        samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        before = files_of(Path("samkit-workspace"))
        assert "4 unchanged" in samkit("ingest", "--labels-from", unlabelled).said
        assert files_of(Path("samkit-workspace")) == before

    def test_a_look_first_writes_nothing(self, samkit, unlabelled, files_of):
        before = files_of(Path("samkit-workspace"))
        finished = samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ", "--dry-run")
        assert "4 labels would be taken; nothing was written" in finished.said
        assert files_of(Path("samkit-workspace")) == before

    def test_ingesting_the_images_again_keeps_the_labels(self, samkit, unlabelled, tmp_path):
        samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        before = {name: volume.record for name, volume in volumes().items()}
        finished = samkit("ingest", tmp_path / "d", "--ids", "stem")
        assert "4 unchanged" in finished.said
        assert {name: volume.record for name, volume in volumes().items()} == before

    def test_they_give_way_to_those_beside_the_images_on_request(self, samkit, unlabelled, tmp_path):
        samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        samkit("ingest", tmp_path / "d", "--ids", "stem", "--replace")
        assert not any(volume.labelled for volume in volumes().values())

    def test_names_come_with_labels_that_are_there_already(self, samkit, unlabelled):
        samkit("ingest", "--labels-from", unlabelled)
        assert volumes()["a"].label_names == {1: "1"}
        assert samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ").code == 0
        assert volumes()["a"].label_names == {1: "organ"}

    def test_flags_for_images_are_wrong_usage(self, samkit, unlabelled):
        finished = samkit("ingest", "--labels-from", unlabelled, "--window", "lung")
        assert finished.code == 2
        assert "--window: for images" in finished.said

    def test_masks_of_3d_ircadb_can_come_later(self, samkit, tmp_path):
        write_ircadb(tmp_path / "tree", patients=PATIENTS[:1])
        samkit("ingest", tmp_path / "tree", *WINDOW, "--labels", "bone=bone", "--workspace", "w")
        finished = samkit("ingest", "--labels-from", tmp_path / "tree", "--workspace", "w")
        assert finished.code == 0, finished.said

    def test_a_label_of_no_volume_is_refused_by_name(self, samkit, unlabelled):
        (unlabelled / "a.nii.gz").rename(unlabelled / "stranger.nii.gz")
        finished = samkit("ingest", "--labels-from", unlabelled, "--labels", "1=organ")
        assert finished.code == 3
        assert "stranger.nii.gz" in finished.said

    def test_images_and_labels_at_once_are_wrong_usage(self, samkit, unlabelled, tmp_path):
        assert samkit("ingest", tmp_path / "d", "--labels-from", unlabelled).code == 2

    def test_nothing_at_all_is_wrong_usage(self, samkit):
        assert samkit("ingest").code == 2


class TestLabelsOfUnlikeBatches:
    """The organ is 2 in the dataset, and 1 in what a colleague sends."""

    @pytest.fixture
    def dataset(self, tmp_path, samkit, write_pair) -> Path:
        for seed, name in enumerate(("a", "b", "c")):
            write_pair(tmp_path / "d", name, seed=seed, label_value=2)
        assert samkit("ingest", tmp_path / "d", "--ids", "stem", "--labels", "organ=2").code == 0
        return tmp_path / "d"

    def test_a_correction_by_another_choice_leaves_the_labels_of_other_volumes_as_they_are(
        self, samkit, dataset, tmp_path, write_pair
    ):
        write_pair(tmp_path / "corrected", "c", seed=5)
        corrected = tmp_path / "corrected/labelsTr"
        assert samkit("ingest", "--labels-from", corrected, "--labels", "organ=1").code == 0
        before = {name: volume.record.label_digest for name, volume in volumes().items()}
        write_pair(dataset, "new", seed=6, label_value=2)
        finished = samkit("ingest", dataset, "--ids", "stem")
        assert finished.code == 0, finished.said
        after = {name: volume.record.label_digest for name, volume in volumes().items()}
        assert after.items() > before.items()
        assert volumes()["new"].read_label().any()

    def test_the_rules_of_a_correction_are_not_those_of_what_comes_later(self, samkit, dataset, tmp_path, write_pair):
        moved = np.diag([-1.5, -1.5, 5.0, 1.0])
        moved[0, 3] = 4.0
        write_pair(tmp_path / "corrected", "c", seed=2, label_value=2, affine=moved)
        corrected = tmp_path / "corrected/labelsTr"
        assert samkit("ingest", "--labels-from", corrected, "--resample-labels").code == 0
        write_pair(tmp_path / "late", "new", seed=6, label_value=2)
        write_pair(tmp_path / "late", "off", seed=6, label_value=2, affine=moved)
        (tmp_path / "late/labelsTr/off.nii.gz").replace(tmp_path / "late/labelsTr/new.nii.gz")
        (tmp_path / "late/imagesTr/off.nii.gz").unlink()
        finished = samkit("ingest", tmp_path / "late", "--ids", "stem")
        assert finished.code == 3
        assert "--resample-labels" in finished.said

    def test_each_batch_is_taken_again_as_it_was_taken(self, samkit, dataset, tmp_path, write_pair):
        write_pair(tmp_path / "more", "new", seed=6, label_value=1)
        assert samkit("ingest", tmp_path / "more", "--ids", "stem", "--labels", "organ=1").code == 0
        assert "3 unchanged" in samkit("ingest", dataset, "--ids", "stem").said
        assert "1 unchanged" in samkit("ingest", tmp_path / "more", "--ids", "stem").said

    def test_the_advice_for_more_of_the_dataset_takes_the_same_values(self, samkit, dataset, tmp_path, write_pair):
        write_pair(tmp_path / "more", "new", seed=6, label_value=2)
        finished = samkit("ingest", tmp_path / "more", "--ids", "stem", "--labels", "1=a,2=b")
        assert finished.code == 1
        assert "--labels organ=2" in finished.said


class TestLabelsThatAreNone:
    def test_values_of_a_label_that_was_refused_need_no_name(self, samkit, tmp_path, write_pair):
        write_pair(tmp_path / "d", "a", seed=0)
        off = np.diag([-1.5, -1.5, 5.0, 1.0])
        off[0, 3] = 5.0
        write_pair(tmp_path / "d", "b", seed=1)
        write_pair(tmp_path / "off", "b", seed=1, label_value=7, affine=off)
        (tmp_path / "off/labelsTr/b.nii.gz").replace(tmp_path / "d/labelsTr/b.nii.gz")
        assert samkit("ingest", tmp_path / "d", "--ids", "stem").code == 3
        finished = samkit("ingest", tmp_path / "d", "--ids", "stem", "--labels", "1=organ")
        assert finished.code == 3  # the same one is refused
        assert volumes()["a"].label_names == {1: "organ"}

    def test_an_image_in_place_of_a_label_is_refused_by_name(self, samkit, tmp_path, write_pair):
        for seed, name in enumerate(("a", "b")):
            write_pair(tmp_path / "d", name, seed=seed)
        many = np.arange(20 * 16 * 4, dtype=np.int16).reshape(20, 16, 4)
        nib.save(nib.Nifti1Image(many, np.diag([-1.5, -1.5, 5.0, 1.0])), tmp_path / "d/labelsTr/b.nii.gz")
        finished = samkit("ingest", tmp_path / "d", "--ids", "stem")
        assert finished.code == 3
        assert "the label has 1278 values that have no name here" in " ".join(finished.said.split())
        assert set(volumes()) == {"a"}
        assert volumes()["a"].label_names == {1: "1"}


class TestCorrectedLabelsOfHashedVolumes:
    """Images of a hospital, whose file names may be those of patients; corrected labels called as they are."""

    @pytest.fixture
    def hospital(self, tmp_path, samkit, write_pair) -> Path:
        for seed, name in enumerate(("Doe", "Roe")):
            write_pair(tmp_path / "pairs", name, seed=seed)
        (tmp_path / "pairs/imagesTr").rename(tmp_path / "ct")
        (tmp_path / "pairs/labelsTr").rename(tmp_path / "corrected")
        assert samkit("ingest", tmp_path / "ct").code == 0
        return tmp_path

    def test_they_find_their_volumes_by_name(self, samkit, hospital):
        finished = samkit("ingest", "--labels-from", hospital / "corrected", "--labels", "1=organ")
        assert finished.code == 0, finished.said
        assert all(volume.labelled for volume in volumes().values())
        for volume in volumes().values():
            bright = np.asarray(volume.image[:, 0], np.float32) > 0.8
            assert np.count_nonzero(bright & (volume.read_label() == 1)) > 0.9 * np.count_nonzero(bright)

    def test_with_another_key_it_is_said_what_works(self, samkit, hospital, monkeypatch):
        monkeypatch.setenv("SAMKIT_ID_KEY", "of somebody else")
        finished = samkit("ingest", "--labels-from", hospital / "corrected")
        assert finished.code == 3
        assert "SAMKIT_ID_KEY" in finished.said
        assert "samkit ingest IMAGES --dry-run --id-map FILE" in finished.said

    def test_what_works_does(self, samkit, hospital, tmp_path):
        samkit("ingest", hospital / "ct", "--dry-run", "--id-map", tmp_path / "map.csv")
        with (tmp_path / "map.csv").open() as file:
            ids = {row["source"]: row["id"] for row in csv.DictReader(file)}
        assert set(ids.values()) == set(volumes())
        (hospital / "corrected/Doe.nii.gz").rename(hospital / f"corrected/{ids['Doe.nii.gz']}_seg.nii.gz")
        (hospital / "corrected/Roe.nii.gz").unlink()
        assert samkit("ingest", "--labels-from", hospital / "corrected").code == 0
        assert volumes()[ids["Doe.nii.gz"]].labelled

    def test_a_folder_of_labels_that_is_taken_for_a_dataset_is_told_the_command(self, samkit, hospital):
        for path in (hospital / "corrected").iterdir():
            path.rename(path.with_name(path.name.replace(".nii", "_seg.nii")))
        said = samkit("ingest", hospital / "corrected").said
        assert f"samkit ingest --labels-from {hospital / 'corrected'}" in said
        assert samkit("ingest", "--labels-from", hospital / "corrected").code == 0

    def test_other_classes_are_refused_with_what_to_type_for_labels(self, samkit, hospital):
        command = ("ingest", "--labels-from", hospital / "corrected")
        samkit(*command, "--labels", "1=organ")
        finished = samkit(*command, "--labels", "1=vessel")
        assert finished.code == 1
        assert f"samkit ingest --labels-from {hospital / 'corrected'} --labels 1=organ" in finished.said
        assert "samkit ingest IMAGES --workspace corrected-workspace" in finished.said
        assert samkit(*command, "--labels", "1=organ").code == 0


class TestSegmentationsOf3DSlicer:
    """Cut out around their segments, in layers, named in the header."""

    SHAPE = (20, 18, 8)

    def image(self, path: Path, seed: int = 0) -> np.ndarray:
        values = np.random.default_rng(seed).normal(100, 10, self.SHAPE).astype(np.float32)
        affine = np.array([[-0.8, 0, 0, 31], [0, -0.9, 0, 17], [0, 0, 3, -40], [0, 0, 0, 1.0]])
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), path)
        return affine

    def segmentation(self, path: Path, affine: np.ndarray, *segments: tuple[str, int, np.ndarray]) -> None:
        """Write (name, label value, mask of the whole image) in a layer each, as large as all of them together."""
        path.parent.mkdir(parents=True, exist_ok=True)
        there = np.argwhere(np.any([mask for _, _, mask in segments], axis=0))
        low, high = there.min(axis=0), there.max(axis=0) + 1
        inside = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        layers = np.stack([(mask[inside] * value).astype(np.uint8) for _, value, mask in segments])
        lps = np.diag([-1.0, -1, 1, 1]) @ affine
        directions = " ".join(f"({','.join(map(str, lps[:3, axis]))})" for axis in range(3))
        fields = {
            "type": "uchar",
            "dimension": 4,
            "space": "left-posterior-superior",
            "sizes": " ".join(map(str, layers.shape)),
            "space directions": f"none {directions}",
            "kinds": "list domain domain domain",
            "encoding": "raw",
            "space origin": f"({','.join(map(str, (lps @ [*low, 1])[:3]))})",
        }
        texts = {"Segmentation_ReferenceImageExtentOffset": " ".join(map(str, low))}
        for number, (name, value, _) in enumerate(segments):
            texts |= {
                f"Segment{number}_Name": name,
                f"Segment{number}_LabelValue": str(value),
                f"Segment{number}_Layer": str(number),
            }
        header = [f"{name}: {value}" for name, value in fields.items()] + [f"{k}:={v}" for k, v in texts.items()]
        path.write_bytes("\n".join(["NRRD0004", *header, "", ""]).encode() + layers.tobytes(order="F"))

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        liver, tumour = np.zeros(self.SHAPE, bool), np.zeros(self.SHAPE, bool)
        liver[4:12, 5:14, 2:6] = True
        tumour[7:9, 8:11, 3:5] = True
        return liver, tumour

    def test_each_segment_lies_where_it_was_drawn_under_its_name(self, samkit, tmp_path):
        liver, tumour = self.masks()
        affine = self.image(tmp_path / "d/scan.nii.gz")
        self.segmentation(tmp_path / "d/scan.seg.nrrd", affine, ("tumour", 1, tumour), ("liver", 2, liver & ~tumour))
        assert samkit("ingest", tmp_path / "d").code == 0
        (volume,) = volumes().values()
        assert volume.label_names == {1: "liver", 2: "tumour"}
        drawn = np.where(tumour, 2, liver.astype(np.uint8))
        shown = Orientation.from_json(dict(volume.record.orientation)).apply(drawn)
        np.testing.assert_array_equal(volume.read_label(), shown)

    def test_a_correction_of_some_of_them_in_other_numbers_is_theirs(self, samkit, tmp_path):
        liver, tumour = self.masks()
        affine = self.image(tmp_path / "d/scan.nii.gz")
        self.segmentation(tmp_path / "d/scan.seg.nrrd", affine, ("liver", 1, liver & ~tumour), ("tumour", 2, tumour))
        samkit("ingest", tmp_path / "d")
        self.segmentation(tmp_path / "new/scan.seg.nrrd", affine, ("tumour", 1, tumour))
        finished = samkit("ingest", "--labels-from", tmp_path / "new")
        assert finished.code == 0, finished.said
        (volume,) = volumes().values()
        assert volume.label_names == {1: "liver", 2: "tumour"}
        assert np.count_nonzero(volume.read_label() == 2) == np.count_nonzero(tumour)
        assert np.count_nonzero(volume.read_label() == 1) == 0

    def test_structures_of_other_names_are_refused_with_theirs(self, samkit, tmp_path):
        liver, _ = self.masks()
        affine = self.image(tmp_path / "d/scan.nii.gz")
        self.segmentation(tmp_path / "d/scan.seg.nrrd", affine, ("liver", 1, liver))
        samkit("ingest", tmp_path / "d")
        self.segmentation(tmp_path / "new/scan.seg.nrrd", affine, ("Leber", 1, liver))
        finished = samkit("ingest", "--labels-from", tmp_path / "new")
        assert finished.code == 1
        assert "--labels liver=STRUCTURE (structures there: Leber)" in finished.said
        assert samkit("ingest", "--labels-from", tmp_path / "new", "--labels", "liver=Leber").code == 0


class TestSelection:
    @pytest.fixture
    def organs(self, tmp_path) -> Path:
        """A label map of four values."""
        for number in range(2):
            values = np.random.default_rng(number).normal(100, 10, (12, 10, 4)).astype(np.float32)
            label = np.zeros((12, 10, 4), np.uint8)
            for value in (1, 2, 3, 7):
                label[value : value + 1, 2:5, 1] = value
            for kind, array in (("imagesTr", values), ("labelsTr", label)):
                (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "d" / kind / f"case{number}.nii.gz")
        return tmp_path / "d"

    def test_values_are_merged_and_renamed(self, samkit, organs):
        finished = samkit("ingest", organs, "--labels", "both=1-2,last=7")
        assert finished.code == 0, finished.said
        volume = volumes()["case0"]
        assert volume.label_names == {1: "both", 2: "last"}
        assert [np.count_nonzero(volume.read_label() == value) for value in (1, 2)] == [6, 3]
        assert "not taken: 3" in finished.said

    def test_more_of_the_dataset_is_selected_as_the_first_was(self, samkit, organs, tmp_path):
        samkit("ingest", organs, "--labels", "both=1-2,last=7")
        (tmp_path / "d/imagesTr/case1.nii.gz").rename(tmp_path / "d/imagesTr/case2.nii.gz")
        (tmp_path / "d/labelsTr/case1.nii.gz").rename(tmp_path / "d/labelsTr/case2.nii.gz")
        assert samkit("ingest", organs).code == 0
        assert np.array_equal(volumes()["case2"].read_label(), volumes()["case1"].read_label())

    def test_more_of_the_dataset_is_taken_by_the_rules_of_the_first(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        masks = {name: np.zeros(series.values.shape, bool) for name in ("liver", "tumour")}
        masks["liver"][4:12, 5:11, 2:4] = True
        masks["tumour"][6:8, 6:8, 2:4] = True
        write_seg(tmp_path / "d" / "seg.dcm", series, masks)
        samkit("ingest", tmp_path / "d", *WINDOW, "--labels", "liver=liver,tumour=tumour", "--overlap", "first")
        assert "1 unchanged" in samkit("ingest", tmp_path / "d", *WINDOW).said

    def test_a_soft_label_is_taken_above_its_threshold(self, samkit, organs):
        for path in (organs / "labelsTr").glob("*.nii.gz"):
            image = nib.load(path)
            soft = (np.asarray(image.dataobj) > 0) * np.float32(0.6)
            nib.save(nib.Nifti1Image(soft, image.affine), path)
        assert samkit("ingest", organs).code == 3
        assert samkit("ingest", organs, "--label-threshold", "0.5").code == 0
        assert "2 unchanged" in samkit("ingest", organs).said
        assert np.count_nonzero(volumes()["case0"].read_label()) == 12

    def test_a_label_on_another_lattice_is_resampled_on_request(self, samkit, organs):
        for path in (organs / "labelsTr").glob("*.nii.gz"):
            image = nib.load(path)
            fine = np.repeat(np.asarray(image.dataobj), 2, axis=0)
            affine = np.diag([0.5, 1, 1, 1])
            affine[0, 3] = -0.25
            nib.save(nib.Nifti1Image(fine, affine), path)
        assert "--resample-labels" in samkit("ingest", organs).said
        assert samkit("ingest", organs, "--resample-labels").code == 0
        assert np.count_nonzero(volumes()["case0"].read_label()) == 12


class TestCheck:
    def test_it_tells_the_ceiling_of_every_class(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "d", "a")
        said = samkit("ingest", tmp_path / "d", "--labels", "1=organ", "--check").said
        assert "input 256 px" in said
        assert "100.0" in said  # 20 x 16 pixels on a grid of 64 x 64 cells: nothing is lost

    def test_a_coarse_grid_costs_thin_structures(self, samkit, tmp_path):
        (tmp_path / "d/images").mkdir(parents=True)
        (tmp_path / "d/labels").mkdir()
        values = np.random.default_rng(0).normal(100, 10, (96, 96, 3)).astype(np.float32)
        thin = np.zeros((96, 96, 3), np.uint8)
        thin[40, :, 1] = 1
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "d/images/a.nii.gz")
        nib.save(nib.Nifti1Image(thin, np.eye(4)), tmp_path / "d/labels/a.nii.gz")
        samkit("ingest", tmp_path / "d", "--labels", "1=line")
        told = samkit("ingest", "--check", "--size", "64").out
        row = next(line.split() for line in told.splitlines() if line.split()[:1] == ["line"])
        assert float(row[2]) < 70

    @pytest.mark.parametrize("size", ["0", "-5", "100"])
    def test_a_size_that_no_encoder_has_is_wrong_usage(self, samkit, write_pair, tmp_path, size):
        write_pair(tmp_path / "d", "a")
        assert samkit("ingest", tmp_path / "d", "--check", "--size", size).code == 2
        assert not Path("samkit-workspace").exists()

    def test_without_labels_there_is_nothing_to_check(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "d", "a", label=False)
        finished = samkit("ingest", tmp_path / "d", "--check")
        assert finished.code == 1
        assert "no volume here has a label" in finished.said


class TestTilted:
    def test_a_tilted_scan_is_taken_with_its_true_geometry(self, samkit, tmp_path):
        (answer,) = tilted(tmp_path / "d")
        finished = samkit("ingest", tmp_path / "d", *WINDOW)
        assert finished.code == 0, finished.said
        assert "tilted gantry" in " ".join(finished.said.split())
        (volume,) = volumes().values()
        np.testing.assert_allclose(np.array(volume.record.source_grid["affine"]), answer.affine, atol=1e-4)


class TestInit:
    def test_what_it_writes_is_read_back(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "d", "a")
        assert samkit("init", tmp_path / "d").code == 0
        known = {"ingest": ["labels", "window", "overlap"], "embed": ["encoder"], "train-head": ["draws", "split"]}
        read_config(Path("samkit.toml"), known)
        assert samkit("ingest", tmp_path / "d").code == 0

    def test_a_ct_gets_a_window_and_structures_their_names(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        write_seg(tmp_path / "d" / "seg.dcm", series, {"left lung": np.ones(series.values.shape, bool)})
        samkit("init", tmp_path / "d")
        config = read_config(
            Path("samkit.toml"), {"ingest": ["labels", "window"], "embed": ["encoder"], "train-head": ["draws"]}
        )
        assert config["ingest"]["window"] == "lung"
        assert config["ingest"]["labels"] == "1=left lung"

    def test_a_name_that_cannot_be_typed_is_left_to_ingest(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        write_seg(tmp_path / "d" / "seg.dcm", series, {"Neoplasm, Primary": np.ones(series.values.shape, bool)})
        assert samkit("init", tmp_path / "d").code == 0
        assert samkit("ingest", tmp_path / "d").code == 0
        assert [volume.label_names for volume in volumes().values()] == [{1: "Neoplasm, Primary"}]

    def test_no_name_of_a_file_is_written(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "d", "a")
        Image.new("L", (9, 9)).save(tmp_path / "d/imagesTr/Smith_John.png")
        told = samkit("init", tmp_path / "d").said
        assert "Smith" not in Path("samkit.toml").read_text()
        assert "ids are the files' names" in told

    def test_flags_that_ingest_has_too_are_kept(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "d", "a")
        samkit("init", tmp_path / "d", "--ids", "stem", "--subject", "(.)")
        config = read_config(
            Path("samkit.toml"), {"ingest": ["ids", "subject"], "embed": ["encoder"], "train-head": ["draws"]}
        )
        assert config["ingest"] == {"ids": "stem", "subject": "(.)"}

    @pytest.mark.parametrize(("folder", "other"), [("imagesTr", "hash"), ("images", "stem")])
    def test_the_other_kind_of_ids_is_one_mark_away(self, samkit, write_pair, tmp_path, folder, other):
        write_pair(tmp_path / "d", "a", label=False)
        (tmp_path / "d/imagesTr").rename(tmp_path / "d" / folder)
        samkit("init", tmp_path / "d")
        assert f'# ids = "{other}"' in Path("samkit.toml").read_text().splitlines()

    def test_organs_of_several_kinds_get_the_window_of_the_abdomen(self, samkit, tmp_path):
        series = write_series(tmp_path / "d" / "ct")
        half = np.zeros(series.values.shape, bool)
        half[:5] = True
        write_seg(tmp_path / "d" / "seg.dcm", series, {"aorta": half, "liver": ~half})
        samkit("init", tmp_path / "d")
        assert 'window = "soft-tissue"' in Path("samkit.toml").read_text()

    def test_one_that_is_there_is_kept(self, samkit, write_pair, tmp_path):
        write_pair(tmp_path / "d", "a")
        Path("samkit.toml").write_text("[embed]\nsize = 64\n")
        finished = samkit("init", tmp_path / "d")
        assert finished.code == 2
        assert "--overwrite" in finished.said
        assert Path("samkit.toml").read_text() == "[embed]\nsize = 64\n"
