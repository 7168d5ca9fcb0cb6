"""Models from the hub: which commit, which hashes are checked, and when the local cache is used."""

import fnmatch
import hashlib
import json
import os
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.errors
import pytest
from checkpoints import TENSORS, assert_holds, refusal, write_checkpoint, write_tokenizer

from bertjax.errors import UserError
from bertjax.pretrained import hub, load_pretrained, load_tokenizer, read_lineage, resolve_checkpoint
from bertjax.pretrained.convert import convert

SHA = "ab" * 20
LATER = "cd" * 20


def hash_of(name, data):
    """The hub's hash: SHA-256 for weights, which are in LFS, and Git's own for all other files."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class Hub:
    """A hub with one model, and its client's cache in the client's layout."""

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
        assert len(revision) == 40  # never a branch, which may have moved in between
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
def fake_hub(tmp_path, monkeypatch):
    """A hub with a model."""
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
    """Replaces links by files, as in a cache on a file system without links."""
    for path in folder.iterdir():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def forget():
    """Clears what a new process would not know."""
    hub._find_commit.cache_clear()
    hub._file_hash.cache_clear()


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("bert-base-cased", "bert-base-cased", None),
        ("owner/model_2.b", "owner/model_2.b", None),
        ("owner/model@refs/pr/1", "owner/model", "refs/pr/1"),
        ("bert-base-uncased@main", "bert-base-uncased", "main"),
    ],
)
def test_a_name_is_one_commit_reported_once(fake_hub, name, repository, revision, capsys):
    _, params = load_pretrained(name)
    assert_holds(params, TENSORS)
    fake_hub.sha = LATER  # the branch moves on while we run
    assert resolve_checkpoint(name) == fake_hub.snapshot(repository)
    assert read_lineage(name) == [{"init_from": f"{repository}@{SHA}"}]
    assert fake_hub.infos == [(repository, revision)]
    assert {revision for _, revision, _, _ in fake_hub.downloads} == {SHA}
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith(f"bertjax: {name} is now {repository}@{SHA}; ")


def test_a_commit_is_not_reported(fake_hub, capsys):
    assert resolve_checkpoint(f"owner/model@{SHA}") == fake_hub.snapshot()
    assert read_lineage(f"owner/model@{SHA}") == [{"init_from": f"owner/model@{SHA}"}]
    assert capsys.readouterr() == ("", "")


def test_a_converted_folder_names_the_commit(fake_hub, tmp_path):
    convert("owner/model", tmp_path / "out")
    assert read_lineage(tmp_path / "out") == [{"init_from": f"owner/model@{SHA}"}]


def test_weights_are_downloaded_in_one_format(fake_hub):
    fake_hub.files["pytorch_model.bin"] = b"not wanted"
    resolve_checkpoint("owner/model")
    assert {path.name for path in fake_hub.snapshot().iterdir()} == {
        *("config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors")
    }


def test_a_model_without_safetensors(fake_hub):
    fake_hub.files["pytorch_model.bin"] = fake_hub.files.pop("model.safetensors")
    fake_hub.files["pytorch_model.bin.index.json"] = b"{}"
    assert resolve_checkpoint("owner/model@main") == fake_hub.snapshot()
    assert {"pytorch_model.bin", "pytorch_model.bin.index.json", "config.json", "vocab.txt"} <= {
        path.name for path in fake_hub.snapshot().iterdir()
    }


def test_a_model_without_weights_in_a_supported_format(fake_hub):
    fake_hub.files["flax_model.msgpack"] = fake_hub.files.pop("model.safetensors")
    assert refusal("owner/model").startswith(
        f"init_from: owner/model@{SHA}: expected model.safetensors or pytorch_model.bin, found flax_model.msgpack; "
    )


def test_an_adapter_is_not_a_model(fake_hub):
    fake_hub.files["adapter_model.safetensors"] = fake_hub.files.pop("model.safetensors")
    fake_hub.files["adapter_config.json"] = b'{"task_type": "SEQ_CLS"}'
    assert "expected a whole model, found adapters of PEFT; merge them: " in refusal("owner/model")


def test_every_file_of_the_tokenizer_is_fetched(fake_hub):
    fake_hub.files["added_tokens.json"] = b'{"[E1]": 24}'
    fake_hub.files["special_tokens_map.json"] = b'{"additional_special_tokens": ["[E1]"]}'
    folder = resolve_checkpoint("owner/model")
    assert load_tokenizer(folder).encode("the [E1]").ids[2] == 24


def test_a_sentencepiece_model_alone_is_fetched_for_the_line_that_converts_it(fake_hub):
    fake_hub.files["spm.model"] = b"pieces"
    del fake_hub.files["vocab.txt"]
    folder = resolve_checkpoint("owner/model")
    with pytest.raises(UserError, match="found spm.model; write tokenizer.json: pip install"):
        load_tokenizer(folder)


# Hashes


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("model.safetensors", "SHA-256"),
        ("model-00001-of-00002.safetensors", "SHA-256"),
        ("vocab.txt", "Git's hash"),
    ],
)
def test_a_damaged_file_is_removed_and_fetched_again(fake_hub, file, kind):
    sound = fake_hub.files.setdefault(file, b"sound")
    fake_hub.damaged = {file: sound[:-1] + b"?"}
    path = fake_hub.snapshot() / file
    assert refusal("owner/model").startswith(
        f"{path}: expected {kind} {hash_of(file, sound)}, as owner/model@{SHA} states, found "
        f"{hash_of(file, fake_hub.damaged[file])}; it was removed; "
    )
    blobs = fake_hub.cache / "models--owner--model" / "blobs"
    assert not os.path.lexists(path)
    assert hash_of(file, sound) not in [blob.name for blob in blobs.iterdir()]
    assert len(list(blobs.iterdir())) == len(list(path.parent.iterdir())) > 0
    fake_hub.damaged = {}
    assert (resolve_checkpoint("owner/model") / file).read_bytes() == sound


def test_only_the_cache_s_own_file_is_removed(fake_hub, tmp_path):
    resolve_checkpoint("owner/model")
    path = fake_hub.snapshot() / "model.safetensors"
    path.unlink()
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    path.symlink_to(mine)
    assert "it was removed" in refusal("owner/model")
    assert not os.path.lexists(path)
    assert mine.read_bytes() == b"mine"


def test_a_damaged_file_that_cannot_be_removed(fake_hub, monkeypatch):
    fake_hub.damaged = {"model.safetensors": b"?"}

    def unlink(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hub.Path, "unlink", unlink)
    assert "; it cannot be removed (Permission denied); " in refusal("owner/model")


def test_weights_whose_hash_the_hub_does_not_state(fake_hub, monkeypatch):
    info = fake_hub.model_info("owner/model", revision=None, files_metadata=True)
    for file in info.siblings:
        file.lfs = file.blob_id = None
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: info)
    resolve_checkpoint("owner/model")  # checked by the names that the cache gave the files
    unlink_all(fake_hub.snapshot())
    path = fake_hub.snapshot() / "model.safetensors"
    assert refusal("owner/model").startswith(
        f"{path}: expected a file with a hash stated by owner/model@{SHA}, found none"
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
def pin(fake_hub, monkeypatch):
    hashes = {name: hashlib.sha256(fake_hub.files[name]).hexdigest() for name in ("model.safetensors", "vocab.txt")}
    monkeypatch.setattr(hub, "PINS", {"tiny": hub.Commit("tiny", SHA, hashes)})
    fake_hub.sha = LATER
    return hub.PINS["tiny"]


@pytest.mark.parametrize("name", ["tiny", f"tiny@{SHA}"])
def test_a_pinned_name(fake_hub, pin, name, capsys):
    assert resolve_checkpoint(name) == fake_hub.snapshot("tiny")
    assert read_lineage(name) == [{"init_from": f"tiny@{SHA}"}]
    assert fake_hub.infos == []  # the hub is not asked for the commit
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt"])
@pytest.mark.parametrize("is_reachable", [True, False])
def test_a_file_that_is_not_the_pinned_one(fake_hub, pin, file, is_reachable):
    fake_hub.files[file] += b"\n"  # the hub states its hash, but it is not the pinned one
    if not is_reachable:
        fake_hub.snapshot_download("tiny", revision=SHA, allow_patterns=["*"])
        fake_hub.error = ConnectionError("no route")
    path = fake_hub.snapshot("tiny") / file
    assert refusal("tiny").startswith(f"{path}: expected SHA-256 {pin.hashes[file]}, as tiny@{SHA} states, found ")
    assert not os.path.lexists(path)


# Without the hub


@pytest.mark.parametrize("name", ["tiny", f"tiny@{SHA}"])
def test_a_pinned_name_from_the_cache(fake_hub, pin, name, capsys):
    resolve_checkpoint(name)
    fake_hub.error = ConnectionError("no route")
    forget()
    assert resolve_checkpoint(name) == fake_hub.snapshot("tiny")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [f"owner/model@{SHA}", "owner/model", "owner/model@main"])
def test_any_name_from_the_cache(fake_hub, name, capsys):
    resolve_checkpoint(name)
    fake_hub.error = ConnectionError("no route\nto host")
    forget()
    capsys.readouterr()
    assert resolve_checkpoint(name) == fake_hub.snapshot()
    assert read_lineage(name) == [{"init_from": f"owner/model@{SHA}"}]
    assert capsys.readouterr() == (
        "",
        f"warning: no answer from the hub (no route); its local cache has owner/model@{SHA}\n",
    )


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_damaged_in_the_cache(fake_hub, file):
    resolve_checkpoint("owner/model")
    path = fake_hub.snapshot() / file
    path.write_bytes(path.read_bytes() + b" ")
    fake_hub.error = ConnectionError("no route")
    forget()
    assert f"as owner/model@{SHA} states, found" in refusal(f"owner/model@{SHA}")
    assert not os.path.lexists(path)
    fake_hub.error = None
    forget()
    assert (resolve_checkpoint(f"owner/model@{SHA}") / file).read_bytes() == fake_hub.files[file]


def test_a_cache_without_hashes(fake_hub):
    resolve_checkpoint("owner/model")
    unlink_all(fake_hub.snapshot())
    assert resolve_checkpoint("owner/model") == fake_hub.snapshot()
    fake_hub.error = ConnectionError("no route")
    forget()
    assert "expected a file with a hash stated by" in refusal("owner/model")


def test_the_client_s_own_cache(fake_hub, tmp_path, monkeypatch, capsys):
    """A cache written by the client, read by the client; it knows only the names of the model's other files."""
    resolve_checkpoint("owner/model")
    tree = {name: {"size": len(data), "blob_id": "0" * 40} for name, data in fake_hub.files.items()}
    tree["flax_model.msgpack"] = {"size": 1, "blob_id": "0" * 40}
    (fake_hub.cache / "models--owner--model" / "trees").mkdir()
    path = fake_hub.cache / "models--owner--model" / "trees" / f"{SHA}.json"
    path.write_text(json.dumps({"format_version": 1, "files": tree}))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(fake_hub.cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("owner/model", f"owner/model@{SHA}"):
        forget()
        capsys.readouterr()
        assert_holds(load_pretrained(name)[1], TENSORS)
        assert capsys.readouterr().err.endswith(f"its local cache has owner/model@{SHA}\n")
    monkeypatch.setattr(hub, "PINS", {"owner/model": hub.Commit("owner/model", SHA, {})})
    forget()
    assert resolve_checkpoint("owner/model") == fake_hub.snapshot()
    assert "no answer from the hub" not in capsys.readouterr().err


class ProxyError(Exception):
    """Like httpx's error, which is not an OSError."""


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
def test_the_hub_cannot_be_reached(fake_hub, error, name):
    fake_hub.error = error
    assert refusal(name) == (
        f"init_from: no folder {name!r} here, and the hub gave no model of that name: no snapshot; "
        "download the checkpoint and pass its folder, or use --config.init_from=minilm-l6 or mpnet-base"
    )


def test_an_error_without_a_message(fake_hub):
    fake_hub.error = TimeoutError()
    assert ": TimeoutError; download" in refusal("owner/model")


def test_an_answer_without_a_commit(fake_hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: SimpleNamespace(sha="../..", siblings=[]))
    assert ": expected a commit, found '../..'; download" in refusal("owner/model")
