"""Where checkpoints come from: folders, the hub and its absence; their config.json."""

import huggingface_hub
import huggingface_hub.errors
import pytest
from checkpoints import TENSORS, assert_holds, refusal, write_checkpoint

from bertjax import assets
from bertjax.pretrained import load_pretrained, resolve


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "not found; a checkpoint folder needs config.json"),
        (
            "{",
            "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); get the file "
            "again",
        ),
        ("[" * 100_000, "not JSON (nested too deeply); get the file again"),
        (b"\xff\xfe", "not JSON ("),
        ("[1]", "expected a JSON object, found list"),
        ('{"model_type": "roberta"}', "BERT config: model_type must be 'bert', found 'roberta'"),
        ("{}", "BERT config: hidden_size, num_attention_heads, num_hidden_layers, vocab_size missing"),
    ],
    ids=["missing", "cut", "deep", "not UTF-8", "list", "roberta", "empty"],
)
def test_a_bad_config(tmp_path, text, complaint):
    path = write_checkpoint(tmp_path) / "config.json"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(path.parent)
    assert message.startswith(f"{path}: {complaint}")
    assert complaint.endswith("(") or message == f"{path}: {complaint}"


def test_a_config_that_is_a_folder(tmp_path):
    path = write_checkpoint(tmp_path) / "config.json"
    path.unlink()
    path.mkdir()
    assert refusal(path.parent) == f"{path}: cannot be read (Is a directory); check its permissions"


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub; returns the calls made."""
    calls = []

    def set_outcome(outcome):
        def snapshot_download(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(outcome, Exception):
                raise outcome
            return str(outcome)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return set_outcome


@pytest.mark.parametrize(
    ("source", "repository", "revision"),
    [
        ("bert-base-uncased", "bert-base-uncased", None),
        ("owner/model_2.b", "owner/model_2.b", None),
        ("owner/model@refs/pr/1", "owner/model", "refs/pr/1"),
    ],
)
def test_a_hub_name(hub, source, repository, revision, tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path)
    calls = hub(folder)
    monkeypatch.chdir(tmp_path)
    _, params = load_pretrained(source)
    assert_holds(params, TENSORS)
    [(args, kwargs)] = calls
    assert args == (repository,)
    assert kwargs.pop("revision") == revision
    # No second copy of the weights in another framework's format.
    assert not any("bin" in pattern or pattern == "*" for pattern in kwargs.pop("allow_patterns"))
    assert not kwargs


def test_a_hub_model_without_safetensors(hub, tmp_path):
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    calls = hub(folder)
    assert resolve("owner/model@main") == folder
    assert [args for args, _ in calls] == [("owner/model",)] * 2
    patterns = [kwargs["allow_patterns"] for _, kwargs in calls]
    assert not any("bin" in pattern for pattern in patterns[0])
    assert {"pytorch_model.bin", "pytorch_model.bin.index.json", "config.json", "vocab.txt"} <= set(patterns[1])
    assert {kwargs["revision"] for _, kwargs in calls} == {"main"}


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
def test_the_hub_out_of_reach(hub, error):
    hub(error)
    assert refusal("owner/model") == (
        "init_from: no folder 'owner/model' here, and the hub gave no model of that name: no snapshot; "
        "download the checkpoint and pass its folder, or use --config.init_from=minilm-l6"
    )


def test_an_error_without_a_message(hub):
    hub(TimeoutError())
    assert ": TimeoutError; download" in refusal("owner/model")


@pytest.mark.parametrize("source", ["./gone", "/gone/model", "~/gone", "a/b/c", "a model", "owner/", "a\nb"])
def test_an_unknown_source(hub, source, monkeypatch, tmp_path):
    calls = hub(AssertionError("asked the hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = (
        "is neither 'minilm-l6', nor a folder, nor a hub name such as 'bert-base-uncased' or 'owner/model@revision'"
    )
    assert refusal(source) == f"init_from: {source!r} {expected}"
    assert not calls


def test_a_file_is_no_checkpoint(hub, tmp_path, monkeypatch):
    calls = hub(AssertionError("asked the hub"))
    monkeypatch.chdir(write_checkpoint(tmp_path))
    assert refusal("model.safetensors").startswith(
        "init_from: 'model.safetensors' is neither 'minilm-l6', nor a folder"
    )
    assert not calls


def test_the_starter_and_folders_ask_no_hub(hub, tmp_path, monkeypatch):
    calls = hub(AssertionError("asked the hub"))
    folder = write_checkpoint(tmp_path)
    asked = []
    monkeypatch.setattr(assets, "fetch", lambda name: asked.append(name) or folder)
    assert resolve("minilm-l6") == folder
    assert asked == ["minilm-l6"]
    assert resolve(folder) == resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve(f"~/{folder.name}") == folder
    assert not calls
