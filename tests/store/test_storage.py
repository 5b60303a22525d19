from pathlib import Path

import pytest

from reasonray.errors import UserError
from reasonray.store.storage import Place, place


@pytest.fixture(params=["local", "memory"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return place(tmp_path / "a")
    # A file system in place of an object store: not local, so files are written without renames.
    from pyarrow import fs

    return Place(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "a")


def test_a_written_file_is_read_listed_and_deleted(there: Place) -> None:
    there.filesystem.create_dir((there / "b").path)
    (there / "b" / "one.json").write(b"1")
    (there / "b" / "two.txt").write(b"2")
    assert (there / "b" / "one.json").read() == b"1"
    assert [file.name for file in (there / "b").list(".json")] == ["one.json"]
    assert (there / "b").exists()
    (there / "b").delete()
    assert not (there / "b").exists()
    (there / "b").delete()
    assert (there / "b").list() == []


def test_a_json_file_is_read_as_its_object_and_a_missing_one_as_none(there: Place) -> None:
    there.filesystem.create_dir(there.path)
    assert (there / "one.json").read_json_or_none() is None
    (there / "one.json").write(b'{"one": [1]}')
    assert (there / "one.json").read_json() == (there / "one.json").read_json_or_none() == {"one": [1]}
    with pytest.raises(FileNotFoundError):
        (there / "other.json").read_json()


def test_a_file_and_a_directory_are_copied(there: Place, tmp_path: Path) -> None:
    there.filesystem.create_dir((there / "b").path)
    (there / "b" / "one.json").write(b"1")
    (there / "b").copy(place(tmp_path / "all"))
    (there / "b" / "one.json").copy(place(tmp_path / "deep" / "er" / "1.json"))
    assert (tmp_path / "all" / "one.json").read_bytes() == (tmp_path / "deep" / "er" / "1.json").read_bytes() == b"1"


def test_a_write_replaces_the_whole_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    target = place(tmp_path / "deep" / "file.json")
    target.write(b"old and long")
    target.write(b"new")
    assert target.read() == b"new"
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["file.json"]


@pytest.mark.parametrize("uri", ["foo://bucket/x", "https://example.org/x"])
def test_a_uri_of_another_kind_is_one_line(uri: str) -> None:
    with pytest.raises(UserError, match=f"{uri} is not a place"):
        place(uri)


def test_a_relative_path_becomes_absolute_and_a_uri_keeps_its_scheme(tmp_path: Path) -> None:
    assert place("runs/x").path == str(Path.cwd() / "runs" / "x")
    assert place(f"file://{tmp_path}/x").is_local
