"""Files are written whole or not at all, and never through a link."""

import pytest

from bertjax.files import atomic


def test_a_new_file_and_an_existing_one(tmp_path):
    for data in (b"one", b"", b"two\r\n"):
        atomic.write_bytes(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("planted", ["a", ".a.partial"])
@pytest.mark.parametrize("target", ["../mine", "../gone", "."])
def test_a_link_is_replaced_and_its_target_untouched(tmp_path, planted, target):
    (tmp_path / "mine").write_bytes(b"mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / planted).symlink_to(target)
    atomic.write_bytes(folder / "a", b"new")
    assert (folder / "a").read_bytes() == b"new"
    assert not (folder / "a").is_symlink()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "gone").exists()


def test_a_hard_link_is_replaced_and_its_other_name_untouched(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "a").hardlink_to(tmp_path / "mine")
    atomic.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    atomic.write_bytes(tmp_path / "a", b"old")

    def replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", replace)
    with pytest.raises(OSError):
        atomic.replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
