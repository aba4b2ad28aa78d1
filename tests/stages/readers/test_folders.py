"""Which folders lie under a folder, where some of them are links."""

from __future__ import annotations

from pathlib import Path

import pytest

from samkit.stages.readers.dicom_headers import files_under
from samkit.stages.readers.folders import walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one patient."""
    (tmp_path / "data" / "pat").mkdir(parents=True)
    (tmp_path / "data" / "pat" / "1").touch()
    return tmp_path / "data"


def linked(link: Path, target: Path | str) -> Path:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def found(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_under(folder)]


def outside(root: Path, *names: str) -> Path:
    """Another folder beside the root, with files."""
    for name in names or ("x",):
        (root.parent / "far" / name).parent.mkdir(parents=True, exist_ok=True)
        (root.parent / "far" / name).touch()
    return root.parent / "far"


class TestLinks:
    def test_a_linked_folder_is_looked_into_wherever_it_lies(self, root: Path):
        linked(root / "away", outside(root, "x", "deep/y"))
        assert found(root) == ["pat/1", "away/x", "away/deep/y"]

    def test_one_that_is_itself_what_was_asked_for_is_too(self, root: Path):
        assert found(linked(root.parent / "link", root)) == ["pat/1"]

    def test_a_folder_comes_by_its_own_name_and_not_by_that_of_a_link_to_it(self, root: Path):
        linked(root / "alias", root / "pat")
        linked(root / "zz", "pat")
        assert found(root) == ["pat/1"]

    def test_of_two_links_to_one_folder_the_first_by_name_counts(self, root: Path):
        target = outside(root)
        linked(root / "b", target)
        linked(root / "a", target)
        assert found(root) == ["pat/1", "a/x"]

    def test_what_lies_in_a_folder_that_was_met_is_not_met_again(self, root: Path):
        far = outside(root, "x", "deep/y")
        linked(root / "a", far / "deep")
        linked(root / "b", far)
        assert found(root) == ["pat/1", "a/y", "b/x"]

    def test_links_in_a_circle_end(self, root: Path):
        far = outside(root)
        linked(root / "there", far)
        linked(far / "back", root)
        linked(far / "itself", ".")
        assert found(root) == ["pat/1", "there/x"]

    @pytest.mark.parametrize("up", ["..", "../..", "/"])
    def test_a_link_up_does_not_bring_in_what_lies_beside(self, root: Path, up: str):
        outside(root)
        linked(root / "pat" / "up", up)
        assert found(root) == ["pat/1"]

    def test_nor_does_one_that_lies_in_a_linked_folder(self, root: Path):
        far = outside(root, "one/x", "two/y")
        linked(root / "one", far / "one")
        linked(far / "one" / "up", far)
        assert found(root) == ["pat/1", "one/x"]

    def test_a_hidden_link_is_left_out(self, root: Path):
        linked(root / ".git", outside(root))
        assert found(root) == ["pat/1"]

    def test_links_to_files_and_to_nowhere_are_files(self, root: Path):
        linked(root / "file", outside(root) / "x")
        linked(root / "nowhere", root / "gone")
        assert found(root) == ["file", "nowhere", "pat/1"]

    @pytest.mark.usefixtures("no_listing_of_closed")
    def test_a_linked_folder_that_may_not_be_listed_is_told(self, root: Path):
        linked(root / "closed", outside(root))
        assert found(root) == ["pat/1", "closed"]


def test_each_folder_comes_with_what_it_holds_sorted_and_without_hidden_names(root: Path):
    for name in ("b", "a", ".hidden", "pat/__MACOSX/1", "pat/.DS_Store"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    linked(root / "link", outside(root))
    assert list(walk(root)) == [
        (root, ["link", "pat"], ["a", "b"]),
        (root / "pat", [], ["1"]),
        (root / "link", [], ["x"]),
    ]
