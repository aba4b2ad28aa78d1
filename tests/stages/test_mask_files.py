"""Where masks go: named as their sources, refused where a format does not fit, and never over images or labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from synthetic.irregular import tilted
from synthetic.series import write_series

from samkit.stages.mask_files import (
    check_format_of_sources,
    check_format_of_volumes,
    check_not_ingested,
    check_targets,
    grid_of,
    mask_names,
    masks_of_sources,
    masks_of_volumes,
    warning_of_shear,
)
from samkit.stages.readers.base import LabelFiles, SourceFiles, SourceGrid
from samkit.stages.readers.dicom_series import triage
from samkit.stages.readers.geometry import choose_orientation
from samkit.stages.readers.mask_writer import MaskFile, mask_file
from samkit.stages.readers.naming import identity_of_text
from samkit.stages.readers.nifti import grid_of_affine, write_label_nifti
from samkit.store.errors import UsageError
from samkit.store.keys import array_digest
from samkit.store.slices import Pixels, Volume, VolumeRecord, slice_digests, write_pixels
from samkit.store.workspace import Workspace

KEY = b"of the tests"
SHAPE = (7, 5, 6)
STRAIGHT = np.array([[-1.5, 0, 0, 20], [0, 0, 1.4, 30], [0, -3, 0, -7], [0, 0, 0, 1.0]])
TILTED = np.array([[-1.5, 0, 0, 20], [0, -1.4, 0.8, 30], [0, 0, 3, -7], [0, 0, 0, 1]])

AddVolume = Callable[..., Volume]


def source(path: Path, volume_id: str = "v1", **fields: object) -> SourceFiles:
    given = {"reader": "nifti", "label": None, "modality": None, "image": (path,), "subject": "s1", **fields}
    identity = identity_of_text(KEY, "path", str(path.resolve()))
    return SourceFiles(id=volume_id, identity=identity, shown=path.name, **given)


def dicom_source(folder: Path) -> SourceFiles:
    series = triage(folder).findings[0].series
    assert series is not None
    return source(series.paths[0], reader="dicom", image=series.paths, series=series)


def target(path: Path) -> dict[str, MaskFile]:
    return {"v1": MaskFile(path=path, name=path.name.split(".")[0], format="nifti")}


@pytest.fixture
def add_volume(tmp_path: Path) -> AddVolume:
    """Put a volume into a workspace as ingest does, with a label map (i, j, k)."""
    workspace = Workspace.create(tmp_path / "workspace", {1: "liver", 2: "tumour"})

    def add(
        name: str,
        *,
        image: Path | None = None,
        label: np.ndarray | None = None,
        affine: np.ndarray | None = STRAIGHT,
        shape: tuple[int, int, int] = SHAPE,
        time_index: int | None = None,
        label_files: tuple[str, ...] = (),
    ) -> Volume:
        # As `readers.layouts` names the volumes of 4-D files.
        named = str((image or tmp_path / f"somewhere/{name}").resolve())
        named += "" if time_index is None else f"\nvolume {time_index}"
        grid, orientation = grid_of_affine(shape, affine), choose_orientation(affine, shape, None)
        planes = orientation.apply(np.random.default_rng(1).random(shape).astype(np.float16))[:, None]
        display = None if label is None else np.ascontiguousarray(orientation.apply(label))
        pixels, files = write_pixels(workspace.path, name, Pixels(image=np.ascontiguousarray(planes), label=display))
        record = VolumeRecord(
            id=name,
            subject=name,
            modality=None,
            shape=planes.shape,
            affine=None,
            spacing_mm=None,
            orientation=orientation.to_json(),
            source_grid=grid.to_json(),
            ingest_recipe={"volume": {"time_index": time_index, "echo": None, "channel": None}},
            identity=identity_of_text(KEY, "path", named),
            slice_digests=slice_digests(np.ascontiguousarray(planes)),
            label_digest=None if display is None else array_digest(display),
            label_values=(),
            label_files=label_files,
            pixels=pixels,
            files=files,
        )
        workspace.commit_volumes([record])
        return workspace.volumes[name]

    return add


@pytest.fixture
def label() -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([0, 0, 1, 2], np.uint8), size=SHAPE)


# -- names -----------------------------------------------------------------------------------------


def test_a_mask_is_called_as_its_source_is(tmp_path):
    masks = masks_of_sources(
        tmp_path, [source(Path("d/scan.nii.gz"))], "nifti", mask_names([source(Path("d/scan.nii.gz"))])
    )
    assert masks["v1"].path == tmp_path / "scan.nii.gz"


def test_two_sources_of_one_name_keep_their_ids():
    names = mask_names(
        [source(Path("a/scan.nii.gz"), "v1"), source(Path("b/SCAN.nrrd"), "v2"), source(Path("c.nii"), "v3")]
    )
    assert names == {"v1": "v1", "v2": "v2", "v3": "c"}


def test_hashes_that_were_asked_for_are_kept():
    assert mask_names([source(Path("scan.nii.gz"))], ids_only=True) == {"v1": "v1"}


def test_a_dicom_series_has_no_name_but_its_id(tmp_path):
    write_series(tmp_path / "Doe, Jane")
    assert mask_names([dicom_source(tmp_path / "Doe, Jane")]) == {"v1": "v1"}


def test_the_mask_of_a_tilted_series_is_named_so_before_it_is_read(tmp_path):
    tilted(tmp_path / "s", shear_mm=(0.0, 20.0))
    one = dicom_source(tmp_path / "s")
    mask = masks_of_sources(tmp_path, [one], "nifti", mask_names([one]))["v1"]
    assert [path.name for path in mask.files] == ["v1.index-space.nii.gz", "v1.index-space.affine.json"]


def test_masks_of_volumes_follow_their_grids(tmp_path, add_volume):
    volumes = [add_volume("a"), add_volume("b", affine=TILTED)]
    masks = masks_of_volumes(tmp_path, volumes, "nrrd", {"b": "scan"})
    assert [masks[name].path.name for name in "ab"] == ["a.nrrd", "scan.index-space.nrrd"]


# -- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_format", ["nifti", "nrrd"])
def test_nifti_and_nrrd_fit_everything(tmp_path, add_volume, mask_format):
    write_series(tmp_path / "s", change=lambda k, dataset: dataset.__delattr__("FrameOfReferenceUID"))
    check_format_of_sources(
        mask_format, [source(Path("a.nii")), source(Path("a.png"), reader="picture"), dicom_source(tmp_path / "s")]
    )
    check_format_of_volumes(mask_format, [add_volume("a")])


def test_dicom_seg_is_for_dicom(tmp_path):
    write_series(tmp_path / "s")
    check_format_of_sources("dicom-seg", [dicom_source(tmp_path / "s")])
    with pytest.raises(UsageError, match=r"scan.nii: .* no DICOM. Nothing was written. --format nifti"):
        check_format_of_sources("dicom-seg", [dicom_source(tmp_path / "s"), source(Path("scan.nii"))])


def test_dicom_without_a_frame_of_reference_is_told_what_it_lacks(tmp_path):
    write_series(tmp_path / "s", change=lambda k, dataset: dataset.__delattr__("FrameOfReferenceUID"))
    with pytest.raises(UsageError, match=r"have no FrameOfReferenceUID .*--format nifti"):
        check_format_of_sources("dicom-seg", [dicom_source(tmp_path / "s")])


def test_png_is_for_pictures():
    check_format_of_sources("png", [source(Path("a.png"), reader="picture")])
    with pytest.raises(UsageError, match=r"scan.nii: --format png is for pictures"):
        check_format_of_sources("png", [source(Path("scan.nii"))])


def test_png_is_for_volumes_of_one_slice_without_geometry(add_volume):
    check_format_of_volumes("png", [add_volume("a", affine=None, shape=(7, 5, 1))])
    for name, affine, shape in (("b", None, (7, 5, 2)), ("c", STRAIGHT, (7, 5, 1))):
        with pytest.raises(UsageError, match=f"{name}: --format png is for pictures"):
            check_format_of_volumes("png", [add_volume(name, affine=affine, shape=shape)])


# -- shear -----------------------------------------------------------------------------------------


def test_a_straight_grid_is_nothing_to_warn_of(tmp_path, add_volume):
    grid = grid_of(add_volume("a"))
    assert warning_of_shear(mask_file(tmp_path, "a", "nifti", grid), grid) is None


def test_whoever_gets_a_mask_in_index_space_is_told_where_the_affine_is_and_of_dicom_seg(tmp_path):
    grid = grid_of_affine(SHAPE, TILTED)
    for mask_format in ("nifti", "nrrd"):
        told = warning_of_shear(mask_file(tmp_path, "a", mask_format, grid), grid)
        assert told is not None
        assert "a.index-space.affine.json" in told
        assert "--format dicom-seg" in told


def test_whoever_has_a_sheared_nifti_is_told_of_itk(tmp_path):
    made = grid_of_affine(SHAPE, TILTED).to_json()
    grid = SourceGrid.from_json({**made, "sform_code": 2})
    told = warning_of_shear(mask_file(tmp_path, "a", "nifti", grid), grid)
    assert told is not None
    assert "identical header" in told


def test_a_dicom_seg_of_a_tilted_series_is_nothing_to_warn_of(tmp_path):
    grid = grid_of_affine(SHAPE, TILTED)
    assert warning_of_shear(mask_file(tmp_path, "a", "dicom-seg", grid), grid) is None


# -- what is there already: the files of new sources ------------------------------------------------


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there.nii.gz").write_bytes(b"mine")
    return tmp_path / "there.nii.gz"


def test_a_file_that_is_there_is_replaced_only_when_asked(there):
    check_targets(target(there).values(), (), overwrite=True)
    with pytest.raises(UsageError, match=r"there already.*--overwrite"):
        check_targets(target(there).values(), (), overwrite=False)


def test_the_affine_beside_a_mask_counts(tmp_path):
    mask = mask_file(tmp_path, "a", "nifti", grid_of_affine(SHAPE, TILTED))
    mask.files[1].write_text("{}")
    with pytest.raises(UsageError, match=r"affine\.json: there already"):
        check_targets([mask], (), overwrite=False)


def labelled_by(path: Path, *, as_structure: bool = False) -> SourceFiles:
    files = LabelFiles(reader="mask-files", paths=(), structures=(("liver", (path,)),))
    return source(Path("x.nii"), label=files if as_structure else LabelFiles(reader="nifti", paths=(path,)))


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("role", ["image", "label", "structure"])
@pytest.mark.parametrize("through", ["itself", "link", "hard link"])
def test_images_and_labels_of_sources_are_never_replaced(tmp_path, there, overwrite, role, through):
    one = source(there) if role == "image" else labelled_by(there, as_structure=role == "structure")
    path = tmp_path / "other.nii.gz" if through != "itself" else there
    if through == "link":
        path.symlink_to(there)
    elif through == "hard link":
        path.hardlink_to(there)
    with pytest.raises(UsageError, match="these are source files"):
        check_targets(target(path).values(), [one], overwrite=overwrite)


def test_files_of_a_dicom_series_are_never_replaced(tmp_path):
    write_series(tmp_path / "s")
    one = dicom_source(tmp_path / "s")
    with pytest.raises(UsageError, match="these are source files"):
        check_targets(target(one.image[3]).values(), [one], overwrite=True)


def test_a_link_to_nothing_is_the_users(tmp_path):
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match="there already"):
        check_targets(target(tmp_path / "link.nii.gz").values(), (), overwrite=False)


# -- what is there already: what the workspace was made from -----------------------------------------


def refused(masks: dict[str, MaskFile], volume: Volume, sources: list[SourceFiles] | None = None) -> bool:
    try:
        check_not_ingested(masks, {volume.id: volume}, KEY, sources or [])
    except UsageError as error:
        assert "these are source files" in str(error)
        return True
    return False


@pytest.mark.parametrize("through", ["itself", "link", "folder"])
def test_images_of_the_workspace_are_never_replaced(tmp_path, add_volume, there, through):
    volume = add_volume("v1", image=there)
    path = there
    if through == "link":
        path = tmp_path / "link.nii.gz"
        path.symlink_to(there)
    elif through == "folder":
        (tmp_path / "folder").symlink_to(tmp_path)
        path = tmp_path / "folder/there.nii.gz"
    assert refused(target(path), volume)


def test_a_4d_image_of_the_workspace_is_never_replaced(add_volume, there):
    assert refused(target(there), add_volume("v1", image=there, time_index=3))


def test_a_file_beside_them_may_be(add_volume, there):
    assert not refused(target(there), add_volume("v1"))


def save(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values, STRAIGHT), path)
    return path


KINDS_OF_LABEL_FILES = {
    "as it is": lambda label: label,
    "of other numbers": lambda label: np.array([0, 4, 9], np.uint8)[label],
    "of more classes": lambda label: (label + np.where(label == 1, 10 * (np.indices(SHAPE)[0] % 3), 0)).astype(
        np.uint8
    ),
    "as floats": lambda label: label.astype(np.float32),
    "soft": lambda label: (label + np.random.default_rng(5).uniform(-0.3, 0.3, SHAPE)).astype(np.float32),
}


@pytest.mark.parametrize("kind", KINDS_OF_LABEL_FILES)
@pytest.mark.parametrize("through", ["itself", "link"])
def test_labels_of_the_workspace_are_never_replaced(tmp_path, add_volume, label, kind, through):
    volume = add_volume("v1", label=label)
    path = save(tmp_path / "v1.nii.gz", KINDS_OF_LABEL_FILES[kind](label))
    if through == "link":
        (tmp_path / "masks").mkdir()
        (tmp_path / "masks/v1.nii.gz").symlink_to(path)
        path = tmp_path / "masks/v1.nii.gz"
    assert refused(target(path), volume)


def test_a_label_in_nrrd_is_never_replaced(tmp_path, add_volume, label):
    sitk = pytest.importorskip("SimpleITK")
    volume = add_volume("v1", label=label)
    sitk.WriteImage(sitk.GetImageFromArray(label.T.copy()), str(tmp_path / "v1.nrrd"))
    assert refused({"v1": MaskFile(path=tmp_path / "v1.nrrd", name="v1", format="nrrd")}, volume)


@pytest.mark.parametrize(
    "other",
    [
        lambda label: np.where(np.indices(SHAPE)[0] == 3, 0, label),
        lambda label: np.flip(label, 1),
        np.zeros_like,
        lambda label: label[:-1],
    ],
    ids=["a plane less", "flipped", "empty", "another shape"],
)
def test_a_mask_that_is_not_the_label_may_be_replaced(tmp_path, add_volume, label, other):
    path = save(tmp_path / "v1.nii.gz", np.ascontiguousarray(other(label)))
    assert not refused(target(path), add_volume("v1", label=label))


def test_a_mask_where_the_label_is_empty_may_be_replaced(tmp_path, add_volume, label):
    path = save(tmp_path / "v1.nii.gz", label)
    assert not refused(target(path), add_volume("v1", label=np.zeros_like(label)))


def test_what_is_no_image_may_be_replaced(tmp_path, add_volume, label, there):
    assert not refused(target(there), add_volume("v1", label=label))


def test_the_label_of_a_source_that_has_another_id_in_the_workspace_is_found(tmp_path, add_volume, label):
    image = save(tmp_path / "scan.nii.gz", label.astype(np.float32))
    volume = add_volume("elsewhere", image=image, label=label)
    (tmp_path / "labels").mkdir()
    path = save(tmp_path / "labels/scan.nii.gz", label)
    assert refused(target(path), volume, [source(image)])


def test_the_label_of_a_volume_is_found_by_the_name_of_the_mask(tmp_path, add_volume, label):
    volume = add_volume("scan", label=label)
    path = save(tmp_path / "scan.nii.gz", label)
    assert refused(target(path), volume, [source(Path("copy/scan.nii.gz"))])


@pytest.mark.parametrize("through", ["itself", "link"])
@pytest.mark.parametrize("kind", ["path", "folder"])
def test_where_a_label_lay_nothing_is_replaced_whatever_it_says_now(tmp_path, add_volume, label, there, kind, through):
    # It was edited since and not ingested again, or another label took its place in the workspace.
    place = there if kind == "path" else there.parent
    volume = add_volume("v1", label=label, label_files=(identity_of_text(KEY, kind, str(place.resolve())),))
    path = there
    if through == "link":
        (tmp_path / "masks").mkdir()
        path = tmp_path / "masks/v9.nii.gz"
        path.symlink_to(there)
    assert refused(target(path), volume)


def test_beside_a_label_masks_may_be_replaced(tmp_path, add_volume, there):
    volume = add_volume("v1", label_files=(identity_of_text(KEY, "path", str((tmp_path / "label.nii.gz").resolve())),))
    assert not refused(target(there), volume)


def test_a_mask_of_before_is_no_label(tmp_path, add_volume, label):
    volume = add_volume("v1", label=label)
    predicted = label.copy()
    predicted[2, 2, 2] ^= 1
    write_label_nifti(tmp_path / "v1.nii.gz", predicted, grid_of(volume))
    assert not refused(target(tmp_path / "v1.nii.gz"), volume)
