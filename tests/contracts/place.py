"""What every place of a workspace must keep, a directory or an object store: its tests inherit from here."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from samkit.store.places import Place, place_of


def filled(place: Place, wanted: Sequence[tuple[int, int]], size_bytes: int) -> list[bytes]:
    """Read (first byte, length) parts of a file of ``size_bytes``."""
    memory = [bytearray(b"?" * length) for _, length in wanted]
    place.read_into([(first, memoryview(into)) for (first, _), into in zip(wanted, memory, strict=True)], size_bytes)
    return [bytes(into) for into in memory]


class PlaceContract:
    """Inherit, and define the fixture ``place``: a folder in which there is nothing yet."""

    # -- names ---------------------------------------------------------------------------------------

    def test_a_place_inside_has_a_name_and_a_parent(self, place: Place):
        inside = place / "deep" / "file.json"
        assert inside.name == "file.json"
        assert inside.parent == place / "deep"
        assert inside.parent.parent == place

    def test_a_path_inside_may_have_several_parts(self, place: Place):
        assert place / "deep/file.json" == place / "deep" / "file.json"

    def test_what_it_is_called_finds_it_again(self, place: Place):
        assert str(place / "file") == f"{place}/file"
        assert place_of(str(place / "file")) == place / "file"

    def test_a_place_is_itself_however_it_was_reached_and_no_other(self, place: Place):
        assert (place / "a" / "b").parent == place / "a"
        assert (place / "a").same_as(place / "a")
        assert place / "a" != place / "b"
        assert not (place / "a").same_as(place / "b")

    def test_it_shows_what_it_is_called(self, place: Place):
        assert str(place) in repr(place)

    # -- files ---------------------------------------------------------------------------------------

    def test_what_is_published_is_what_is_read(self, place: Place):
        (place / "deep" / "file").publish(b"data")
        assert (place / "deep" / "file").read_bytes() == b"data"
        assert (place / "deep" / "file").exists()

    def test_what_is_published_may_come_in_pieces(self, place: Place):
        (place / "file").publish([memoryview(b"first, "), b"", b"second"])
        assert (place / "file").read_bytes() == b"first, second"

    def test_publishing_again_replaces_the_file(self, place: Place):
        (place / "file").publish(b"long old data")
        (place / "file").publish(b"new")
        assert (place / "file").read_bytes() == b"new"

    def test_an_empty_file_is_a_file(self, place: Place):
        (place / "file").publish(b"")
        assert (place / "file").exists()
        assert (place / "file").read_bytes() == b""

    def test_the_first_of_two_writers_is_told_so_and_the_second_changes_nothing(self, place: Place):
        assert (place / "deep" / "file").publish_if_absent(b"first") is True
        assert (place / "deep" / "file").publish_if_absent(b"second") is False
        assert (place / "deep" / "file").read_bytes() == b"first"
        assert place.files() == {"deep/file": 5}

    def test_a_name_that_was_freed_can_be_taken_again(self, place: Place):
        (place / "file").publish_if_absent(b"first")
        (place / "file").remove()
        assert (place / "file").publish_if_absent(b"second") is True
        assert (place / "file").read_bytes() == b"second"

    def test_a_file_that_is_not_there_is_not_found(self, place: Place):
        assert not (place / "file").exists()
        with pytest.raises(FileNotFoundError):
            (place / "file").read_bytes()

    def test_a_folder_is_no_file(self, place: Place):
        (place / "folder" / "file").publish(b"data")
        assert not (place / "folder").exists()

    # -- parts of files ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "wanted",
        [[(0, 10)], [(3, 2)], [(6, 4), (0, 3), (3, 3)], [(8, 1), (2, 3), (8, 1)], [(0, 5), (2, 4)]],
        ids=["whole", "inside", "in any order", "twice", "overlapping"],
    )
    def test_parts_of_a_file_fill_memory(self, place: Place, wanted: list[tuple[int, int]]):
        (place / "file").publish(b"0123456789")
        expected = [b"0123456789"[first : first + length] for first, length in wanted]
        assert filled(place / "file", wanted, 10) == expected

    @pytest.mark.parametrize("size_bytes", [11, 20])
    def test_a_file_that_ends_too_early_is_refused(self, place: Place, size_bytes: int):
        (place / "file").publish(b"0123456789")
        with pytest.raises(EOFError, match=f"has 10 bytes where its rows take {size_bytes}|ends at byte 10"):
            filled(place / "file", [(4, size_bytes - 4)], size_bytes)

    @pytest.mark.parametrize("wanted", [[(8, 4)], [(12, 2), (0, 2)]])
    def test_parts_past_the_end_that_a_file_should_have_are_refused(self, place: Place, wanted: list[tuple[int, int]]):
        (place / "file").publish(b"0123456789")
        with pytest.raises(EOFError):
            filled(place / "file", wanted, 10)

    def test_a_file_that_is_not_there_has_no_parts(self, place: Place):
        with pytest.raises(FileNotFoundError):
            filled(place / "file", [(0, 1)], 1)

    # -- folders -------------------------------------------------------------------------------------

    def test_the_names_in_a_folder_come_in_order_and_folders_are_among_them(self, place: Place):
        for name in ("b.json", "a/deep/file", "c", "a/file"):
            (place / name).publish(b"")
        assert place.children() == ["a", "b.json", "c"]
        assert (place / "a").children() == ["deep", "file"]

    def test_hidden_names_are_left_out(self, place: Place):
        for name in (".hidden", "shown", ".folder/file"):
            (place / name).publish(b"")
        assert place.children() == ["shown"]
        assert place.files() == {"shown": 0}

    def test_a_folder_that_is_not_there_and_a_file_have_no_names_in_them(self, place: Place):
        (place / "file").publish(b"")
        assert (place / "absent").children() == []
        assert (place / "file").children() == []
        assert (place / "absent").files() == {}

    def test_a_name_that_another_begins_with_is_another(self, place: Place):
        (place / "folder" / "mine").publish(b"1")
        (place / "folder2" / "theirs").publish(b"2")
        assert (place / "folder").children() == ["mine"]
        assert (place / "folder").files() == {"mine": 1}

    def test_every_file_is_listed_with_its_size(self, place: Place):
        (place / "one").publish(b"12345")
        (place / "deep" / "er" / "two").publish(b"123")
        assert place.files() == {"deep/er/two": 3, "one": 5}

    def test_several_files_are_read_together_and_those_that_are_gone_left_out(self, place: Place):
        for name in ("a.json", "deep/b.json"):
            (place / name).publish(name.encode())
        assert place.read_children(["deep/b.json", "gone.json", "a.json"]) == {
            "a.json": b"a.json",
            "deep/b.json": b"deep/b.json",
        }

    @pytest.mark.parametrize(("names", "read"), [(["a"], {"a": b"data"}), (["gone"], {}), ([], {})])
    def test_one_file_or_none_is_read_like_several(self, place: Place, names: list[str], read: dict[str, bytes]):
        (place / "a").publish(b"data")
        assert place.read_children(names) == read

    def test_a_folder_is_published_with_all_of_its_files(self, place: Place):
        (place / "folder").publish_folder({"image/0.0": b"pixels", "zarr.json": [b"{", memoryview(b"}")]})
        assert (place / "folder").files() == {"image/0.0": 6, "zarr.json": 2}
        assert (place / "folder" / "zarr.json").read_bytes() == b"{}"

    def test_a_folder_replaces_the_one_before(self, place: Place):
        for text in (b"old", b"new"):
            (place / "folder").publish_folder({"inner/file": text})
        assert (place / "folder" / "inner" / "file").read_bytes() == b"new"

    def test_a_folder_that_is_to_be_kept_is_left_alone(self, place: Place):
        (place / "folder").publish_folder({"file": b"old"})
        (place / "folder").publish_folder({"file": b"new"}, keep=lambda: True)
        assert (place / "folder" / "file").read_bytes() == b"old"

    # -- removing ------------------------------------------------------------------------------------

    def test_a_file_is_removed_and_its_neighbours_stay(self, place: Place):
        for name in ("file", "file2", "other"):
            (place / name).publish(b"")
        (place / "file").remove()
        assert place.children() == ["file2", "other"]

    def test_a_folder_is_removed_with_all_that_is_in_it(self, place: Place):
        for name in ("folder/deep/file", "folder/file", "folder2/file"):
            (place / name).publish(b"")
        (place / "folder").remove()
        assert place.files() == {"folder2/file": 0}

    def test_removing_what_is_not_there_is_nothing(self, place: Place):
        (place / "other").publish(b"")
        (place / "absent").remove()
        (place / "deep" / "absent").remove()
        assert place.files() == {"other": 0}

    # -- time and room -------------------------------------------------------------------------------

    def test_what_was_written_tells_when(self, place: Place):
        before = time.time()
        (place / "folder" / "file").publish(b"")
        for written in (place, place / "folder", place / "folder" / "file"):
            assert before - 2 <= written.modified() <= time.time() + 2

    def test_a_folder_is_as_new_as_its_newest_file(self, place: Place):
        (place / "one").publish(b"")
        before = place.modified()
        time.sleep(0.02)
        (place / "deep" / "two").publish(b"")
        assert place.modified() > before

    def test_what_is_not_there_was_never_written(self, place: Place):
        assert (place / "absent").modified() == 0

    def test_the_room_that_is_left_is_a_number_or_unknown(self, place: Place):
        free = (place / "not" / "there" / "yet").free_bytes()
        assert free is None or free > 0

    def test_there_are_no_leftovers_of_killed_writers_among_finished_files(self, place: Place):
        (place / "deep" / "file").publish(b"")
        assert place.remove_leftovers(older_than=time.time() + 1000) == 0
        assert place.files() == {"deep/file": 0}
