"""Outputs are refused before the work, and appear all together or not at all."""

from pathlib import Path

import pytest

from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.pipelines.outputs import check_outputs, existing_file, staged


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_refuses_and_changes_nothing(tmp_path):
    old = tmp_path / "a.json"
    old.write_text("old")
    before = state_of(tmp_path)
    with pytest.raises(OutputExistsError, match=r"a\.json.*--overwrite.*--skip-existing"):
        check_outputs([old, tmp_path / "b.nii.gz"], inputs=[], existing="refuse")
    assert state_of(tmp_path) == before


def test_goes_on_where_nothing_is_there_or_all_may_be_replaced(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    assert check_outputs([new], inputs=[], existing="refuse")
    old.write_text("old")
    assert check_outputs([new, old], inputs=[], existing="overwrite")


def test_skips_only_complete_cases(tmp_path):
    side, main = tmp_path / "x.json", tmp_path / "x.nii.gz"
    side.write_text("{}")
    assert check_outputs([side, main], inputs=[], existing="skip"), "the main output is missing"
    main.write_text("")
    assert not check_outputs([side, main], inputs=[], existing="skip")


def test_an_output_never_replaces_an_input(tmp_path):
    source = tmp_path / "in.h5"
    source.write_text("data")
    crooked = tmp_path / "sub" / ".." / "in.h5"
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match="would replace the input"):
        check_outputs([crooked], inputs=[source], existing="overwrite")


def test_two_outputs_never_share_a_name(tmp_path):
    with pytest.raises(UsageError, match="two outputs"):
        check_outputs([tmp_path / "x", tmp_path / "x"], inputs=[], existing="overwrite")


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(UsageError, match="is a folder; name a file"):
        check_outputs([tmp_path], inputs=[], existing="overwrite")


def test_missing_input_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"nothing\.h5 does not exist"):
        existing_file(tmp_path / "nothing.h5")
    with pytest.raises(InvalidInputError, match="is a folder"):
        existing_file(tmp_path)


def test_all_files_appear_together_and_in_order(tmp_path):
    first, last = tmp_path / "deep" / "first.json", tmp_path / "last.nii.gz"
    with staged([first, last], overwrite=False) as places:
        for final, place in places.items():
            assert place.name.endswith(final.name), "writers look at the ending"
            place.write_text(final.name)
            assert not final.exists()
    assert first.read_text() == "first.json"
    assert last.read_text() == "last.nii.gz"
    assert first.stat().st_ctime_ns <= last.stat().st_ctime_ns
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "last.nii.gz"]


def test_an_error_leaves_what_was_there(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.nii.gz"
    old.write_text("old")
    before = state_of(tmp_path)

    def write() -> None:
        with staged([old, new], overwrite=True) as places:
            places[old].write_text("half")
            places[new].write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write()
    assert state_of(tmp_path) == before
