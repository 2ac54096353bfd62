from pathlib import Path

import pytest

from fedser.common.files import replacing, write_text


def test_a_link_in_a_files_place_is_replaced_and_not_followed(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    run.mkdir()
    outside.write_text("precious")
    for name in ("results.json", "results.json.partial", ".tmp"):
        (run / name).symlink_to(outside)
    write_text(run / "results.json", "precious")  # which the link's end says already
    assert not (run / "results.json").is_symlink() and outside.read_text() == "precious"
    write_text(run / "results.json", "new")
    assert outside.read_text() == "precious" and (run / "results.json").read_text() == "new"
    assert (run / "results.json").stat().st_mode & 0o777 == 0o600


def test_what_fails_halfway_leaves_the_file_as_it_was(tmp_path: Path):
    write_text(tmp_path / "file", "whole")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as partial:
        partial.write_text("ha")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "whole"
