"""A folder is the old one or the new one; what a killed writer left is removed."""

from pathlib import Path

import pytest

from vbon.artifacts import files
from vbon.artifacts.files import remove_folder, remove_leftovers, replace_folder
from vbon.errors import VbonError


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path):
    path = tmp_path / "model"
    for content in ("one", "two"):
        with replace_folder(path) as made:
            (made / "sub").mkdir()
            (made / "sub" / content).write_text(content)
            assert not (path / "sub" / content).exists()
        assert names(tmp_path) == ["model", "model/sub", f"model/sub/{content}"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("bad")])
def test_an_error_leaves_the_old_folder_and_nothing_beside_it(tmp_path: Path, error: BaseException):
    path = tmp_path / "model"
    with replace_folder(path) as made:
        (made / "old").touch()
    expected = VbonError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), replace_folder(path) as made:
        (made / "new").touch()
        raise error
    assert names(tmp_path) == ["model", "model/old"]


def test_leftovers_of_both_kinds_are_removed_and_nothing_else(tmp_path: Path):
    for prefix in (files.WRITING, files.REMOVING):
        (tmp_path / f"{prefix}file").touch()
        (tmp_path / f"{prefix}folder").mkdir()
        (tmp_path / f"{prefix}folder" / "file").touch()
    (tmp_path / "kept").touch()
    (tmp_path / f"{files.WRITING}link").symlink_to(tmp_path / "kept")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["kept"]


def test_a_removed_folder_is_gone_and_a_missing_one_is_no_error(tmp_path: Path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    remove_folder(tmp_path / "folder")
    remove_folder(tmp_path / "folder")
    assert names(tmp_path) == []
