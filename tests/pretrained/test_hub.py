"""Models from the hub: of which commit, checked against which hashes, and what the local cache is good for."""

import fnmatch
import hashlib
import json
import os
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.errors
import pytest
from checkpoints import TENSORS, assert_holds, refusal, write_checkpoint, write_tokenizer

from bertjax.pretrained import hub, lineage, load_pretrained, resolve
from bertjax.pretrained.convert import convert

SHA = "ab" * 20
LATER = "cd" * 20


def hash_of(name, data):
    """As the hub has it: SHA-256 of weights, which lie in LFS, and Git's own of all else."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class Hub:
    """A hub of one model, and its client's cache, laid out as the client does."""

    def __init__(self, files, cache):
        self.files, self.cache = files, cache
        self.sha = SHA
        self.error = None
        self.damaged = {}
        self.infos, self.downloads = [], []

    def model_info(self, repository, *, revision, files_metadata):
        assert files_metadata
        self.infos.append((repository, revision))
        if self.error:
            raise self.error
        siblings = []
        for name, data in self.files.items():
            stated = hash_of(name, data)
            lfs = SimpleNamespace(sha256=stated) if len(stated) == 64 else None
            siblings.append(SimpleNamespace(rfilename=name, blob_id="0" * 40 if lfs else stated, lfs=lfs))
        return SimpleNamespace(sha=revision if revision == SHA else self.sha, siblings=siblings)

    def snapshot_download(self, repository, *, revision, allow_patterns, local_files_only=False):
        self.downloads.append((repository, revision, tuple(allow_patterns), local_files_only))
        model = self.cache / f"models--{repository.replace('/', '--')}"
        if local_files_only:
            reference = model / "refs" / (revision or "main")
            folder = model / "snapshots" / (reference.read_text() if reference.is_file() else revision or "main")
            if not folder.is_dir():
                raise huggingface_hub.errors.LocalEntryNotFoundError("no such snapshot in the cache")
            return str(folder)
        if self.error:
            raise self.error
        assert len(revision) == 40  # never a branch, which may have moved since it was asked for
        folder = model / "snapshots" / revision
        for part in (folder, model / "blobs", model / "refs"):
            part.mkdir(parents=True, exist_ok=True)
        (model / "refs" / "main").write_text(revision)
        for name, data in self.files.items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns) and not (folder / name).exists():
                blob = model / "blobs" / hash_of(name, data)
                blob.write_bytes(self.damaged.get(name, data))
                (folder / name).symlink_to(os.path.relpath(blob, folder))
        return str(folder)

    def snapshot(self, repository="owner/model", sha=SHA):
        return self.cache / f"models--{repository.replace('/', '--')}" / "snapshots" / sha


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A hub that has a model."""
    source = tmp_path / "source"
    source.mkdir()
    write_tokenizer(source)
    write_checkpoint(source)
    fake = Hub({path.name: path.read_bytes() for path in source.iterdir()}, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "model_info", fake.model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)
    forget()
    yield fake
    forget()


def unlink_all(folder):
    """As where a file system has no links: the files themselves."""
    for path in folder.iterdir():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def forget():
    """As a new process."""
    hub._find.cache_clear()
    hub._hash.cache_clear()


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("bert-base-cased", "bert-base-cased", None),
        ("owner/model_2.b", "owner/model_2.b", None),
        ("owner/model@refs/pr/1", "owner/model", "refs/pr/1"),
        ("bert-base-uncased@main", "bert-base-uncased", "main"),
    ],
)
def test_a_name_is_one_commit_which_is_told_once(there, name, repository, revision, capsys):
    _, params = load_pretrained(name)
    assert_holds(params, TENSORS)
    there.sha = LATER  # the branch moves on while we run
    assert resolve(name) == there.snapshot(repository)
    assert lineage(name) == [{"init_from": f"{repository}@{SHA}"}]
    assert there.infos == [(repository, revision)]
    assert {revision for _, revision, _, _ in there.downloads} == {SHA}
    assert capsys.readouterr() == (
        "",
        f"bertjax: {name} is {repository}@{SHA} now; pass that as init_from to keep to it\n",
    )


def test_a_commit_is_not_news(there, capsys):
    assert resolve(f"owner/model@{SHA}") == there.snapshot()
    assert lineage(f"owner/model@{SHA}") == [{"init_from": f"owner/model@{SHA}"}]
    assert capsys.readouterr() == ("", "")


def test_what_is_converted_names_the_commit(there, tmp_path):
    convert("owner/model", tmp_path / "out")
    assert lineage(tmp_path / "out") == [{"init_from": f"owner/model@{SHA}"}]


def test_no_second_copy_of_the_weights(there):
    there.files["pytorch_model.bin"] = b"not wanted"
    resolve("owner/model")
    assert {path.name for path in there.snapshot().iterdir()} == {
        *("config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors")
    }


def test_a_model_without_safetensors(there):
    there.files["pytorch_model.bin"] = there.files.pop("model.safetensors")
    there.files["pytorch_model.bin.index.json"] = b"{}"
    assert resolve("owner/model@main") == there.snapshot()
    assert {"pytorch_model.bin", "pytorch_model.bin.index.json", "config.json", "vocab.txt"} <= {
        path.name for path in there.snapshot().iterdir()
    }


def test_a_model_without_weights_that_we_read(there):
    there.files["flax_model.msgpack"] = there.files.pop("model.safetensors")
    assert refusal("owner/model") == (
        f"init_from: owner/model@{SHA}: expected model.safetensors or pytorch_model.bin, found neither; convert what "
        "it has, or name another model"
    )


# Hashes


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("model.safetensors", "SHA-256"),
        ("model-00001-of-00002.safetensors", "SHA-256"),
        ("vocab.txt", "Git's hash"),
    ],
)
def test_a_damaged_file_is_removed_and_fetched_anew(there, file, kind):
    sound = there.files.setdefault(file, b"sound")
    there.damaged = {file: sound[:-1] + b"?"}
    path = there.snapshot() / file
    assert refusal("owner/model") == (
        f"{path}: expected {kind} {hash_of(file, sound)}, as owner/model@{SHA} states, found "
        f"{hash_of(file, there.damaged[file])}; it was removed; run again to fetch it anew"
    )
    blobs = there.cache / "models--owner--model" / "blobs"
    assert not os.path.lexists(path)
    assert hash_of(file, sound) not in [blob.name for blob in blobs.iterdir()]
    assert len(list(blobs.iterdir())) == len(list(path.parent.iterdir())) > 0
    there.damaged = {}
    assert (resolve("owner/model") / file).read_bytes() == sound


def test_only_the_cache_s_own_file_is_removed(there, tmp_path):
    resolve("owner/model")
    path = there.snapshot() / "model.safetensors"
    path.unlink()
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    path.symlink_to(mine)
    assert "it was removed" in refusal("owner/model")
    assert not os.path.lexists(path)
    assert mine.read_bytes() == b"mine"


def test_a_damaged_file_that_cannot_be_removed(there, monkeypatch):
    there.damaged = {"model.safetensors": b"?"}

    def unlink(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hub.Path, "unlink", unlink)
    assert refusal("owner/model").endswith(
        "; it cannot be removed (Permission denied): remove it, and run again to fetch it anew"
    )


def test_weights_whose_hash_the_hub_does_not_state(there, monkeypatch):
    info = there.model_info("owner/model", revision=None, files_metadata=True)
    for file in info.siblings:
        file.lfs = file.blob_id = None
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: info)
    resolve("owner/model")  # by the names that the cache gave them
    unlink_all(there.snapshot())
    assert refusal("owner/model") == (
        f"{there.snapshot() / 'model.safetensors'}: expected a file whose hash owner/model@{SHA} states, found one "
        "without; download it while the hub can be reached, or pass its folder"
    )


# Pins


def test_the_pins():
    assert {name: (pin.repository, pin.sha[:8], sorted(pin.hashes)) for name, pin in hub.PINS.items()} == {
        "bert-base-uncased": ("bert-base-uncased", "86b5e093", ["model.safetensors", "vocab.txt"])
    }
    for pin in hub.PINS.values():
        assert len(pin.sha) == 40
        assert {len(stated) for stated in pin.hashes.values()} == {64}


@pytest.fixture
def pin(there, monkeypatch):
    hashes = {name: hashlib.sha256(there.files[name]).hexdigest() for name in ("model.safetensors", "vocab.txt")}
    monkeypatch.setattr(hub, "PINS", {"tiny": hub.Commit("tiny", SHA, hashes)})
    there.sha = LATER
    return hub.PINS["tiny"]


@pytest.mark.parametrize("name", ["tiny", f"tiny@{SHA}"])
def test_a_pinned_name(there, pin, name, capsys):
    assert resolve(name) == there.snapshot("tiny")
    assert lineage(name) == [{"init_from": f"tiny@{SHA}"}]
    assert there.infos == []  # nobody is asked what it stands for
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt"])
@pytest.mark.parametrize("is_reachable", [True, False])
def test_another_file_than_the_pinned_one(there, pin, file, is_reachable):
    there.files[file] += b"\n"  # as the hub states it, but not as we know it
    if not is_reachable:
        there.snapshot_download("tiny", revision=SHA, allow_patterns=["*"])
        there.error = ConnectionError("no route")
    path = there.snapshot("tiny") / file
    assert refusal("tiny").startswith(f"{path}: expected SHA-256 {pin.hashes[file]}, as tiny@{SHA} states, found ")
    assert not os.path.lexists(path)


# Without the hub


@pytest.mark.parametrize("name", ["tiny", f"tiny@{SHA}"])
def test_a_pinned_name_out_of_the_cache(there, pin, name, capsys):
    resolve(name)
    there.error = ConnectionError("no route")
    forget()
    assert resolve(name) == there.snapshot("tiny")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [f"owner/model@{SHA}", "owner/model", "owner/model@main"])
def test_out_of_the_cache(there, name, capsys):
    resolve(name)
    there.error = ConnectionError("no route\nto host")
    forget()
    capsys.readouterr()
    assert resolve(name) == there.snapshot()
    assert lineage(name) == [{"init_from": f"owner/model@{SHA}"}]
    assert capsys.readouterr() == (
        "",
        f"warning: no answer from the hub (no route); its local cache has owner/model@{SHA}\n",
    )


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_damaged_in_the_cache(there, file):
    resolve("owner/model")
    path = there.snapshot() / file
    path.write_bytes(path.read_bytes() + b" ")
    there.error = ConnectionError("no route")
    forget()
    assert f"as owner/model@{SHA} states, found" in refusal(f"owner/model@{SHA}")
    assert not os.path.lexists(path)
    there.error = None
    forget()
    assert (resolve(f"owner/model@{SHA}") / file).read_bytes() == there.files[file]


def test_a_cache_that_names_no_hashes(there):
    resolve("owner/model")
    unlink_all(there.snapshot())
    assert resolve("owner/model") == there.snapshot()
    there.error = ConnectionError("no route")
    forget()
    assert "expected a file whose hash" in refusal("owner/model")


def test_the_client_s_own_cache(there, tmp_path, monkeypatch, capsys):
    """What the client left there, read by the client itself; of the model's other files it knows no more than names."""
    resolve("owner/model")
    tree = {name: {"size": len(data), "blob_id": "0" * 40} for name, data in there.files.items()}
    tree["flax_model.msgpack"] = {"size": 1, "blob_id": "0" * 40}
    (there.cache / "models--owner--model" / "trees").mkdir()
    path = there.cache / "models--owner--model" / "trees" / f"{SHA}.json"
    path.write_text(json.dumps({"format_version": 1, "files": tree}))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(there.cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("owner/model", f"owner/model@{SHA}"):
        forget()
        capsys.readouterr()
        assert_holds(load_pretrained(name)[1], TENSORS)
        assert capsys.readouterr().err.endswith(f"its local cache has owner/model@{SHA}\n")
    monkeypatch.setattr(hub, "PINS", {"owner/model": hub.Commit("owner/model", SHA, {})})
    forget()
    assert resolve("owner/model") == there.snapshot()
    assert "no answer from the hub" not in capsys.readouterr().err


class ProxyError(Exception):
    """As in httpx: no OSError."""


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no snapshot\nPlease check your connection."),
        huggingface_hub.errors.HFValidationError("no snapshot"),
        ConnectionError("no snapshot"),
        ProxyError("no snapshot"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", ["owner/model", "bert-base-uncased"])
def test_the_hub_out_of_reach(there, error, name):
    there.error = error
    assert refusal(name) == (
        f"init_from: no folder {name!r} here, and the hub gave no model of that name: no snapshot; "
        "download the checkpoint and pass its folder, or use --config.init_from=minilm-l6"
    )


def test_an_error_without_a_message(there):
    there.error = TimeoutError()
    assert ": TimeoutError; download" in refusal("owner/model")


def test_an_answer_without_a_commit(there, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: SimpleNamespace(sha="../..", siblings=[]))
    assert ": expected a commit, found '../..'; download" in refusal("owner/model")
