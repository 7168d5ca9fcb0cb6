"""Sources of checkpoints: the starter, folders, the hub; and broken config.json files."""

import json

import pytest
from checkpoints import TENSORS, assert_holds, refusal, write_checkpoint

from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.models.families import FAMILIES
from bertjax.pretrained import (
    head_class_names,
    hub,
    is_sentence_encoder,
    load_pretrained,
    read_lineage,
    resolve_checkpoint,
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "not found; a checkpoint folder needs config.json"),
        (
            "{",
            "expected JSON, found something else (Expecting property name enclosed in double quotes: line 1 column 2 "
            "(char 1)); get the file again",
        ),
        ("[" * 100_000, "expected JSON, found something else (nested too deeply); get the file again"),
        (b"\xff\xfe", "expected JSON, found something else ("),
        ("[1]", "expected an object, found [1]; get the file again"),
        (
            '{"model_type": "nezha"}',
            f"config: model_type must be one of {', '.join(sorted(FAMILIES))}, found 'nezha'",
        ),
        ("{}", "BERT config: hidden_size, num_attention_heads, num_hidden_layers, vocab_size missing"),
    ],
    ids=["missing", "cut", "deep", "not UTF-8", "list", "nezha", "empty"],
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


def test_a_config_json_that_is_a_folder(tmp_path):
    path = write_checkpoint(tmp_path) / "config.json"
    path.unlink()
    path.mkdir()
    assert refusal(path.parent) == f"{path}: cannot be read (Is a directory); check its permissions"


@pytest.fixture
def asked(monkeypatch):
    """The names that the hub is asked for."""
    names = []
    monkeypatch.setattr(hub, "fetch_model", names.append)
    return names


@pytest.mark.parametrize("source", ["./gone", "/gone/model", "~/gone", "a/b/c", "a model", "owner/", "a\nb"])
def test_an_unknown_source(asked, source, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refusal(source) == (
        f"init_from: {source!r} is neither 'minilm-l6' nor 'mpnet-base', nor a folder, nor a hub name such as "
        "'bert-base-uncased' or 'owner/model@revision'"
    )
    assert not asked


def test_a_file_is_not_a_checkpoint(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(write_checkpoint(tmp_path))
    assert refusal("model.safetensors").startswith(
        "init_from: 'model.safetensors' is neither 'minilm-l6' nor 'mpnet-base', nor a folder"
    )
    assert not asked


@pytest.mark.parametrize("starter", ["minilm-l6", "mpnet-base"])
def test_starters_and_folders_do_not_ask_the_hub(asked, tmp_path, monkeypatch, starter):
    folder = write_checkpoint(tmp_path)
    fetched = []
    monkeypatch.setattr(assets, "fetch_asset", lambda name: fetched.append(name) or folder)
    assert resolve_checkpoint(starter) == folder
    assert fetched == [starter]
    assert is_sentence_encoder(starter)
    assert resolve_checkpoint(folder) == resolve_checkpoint(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve_checkpoint(f"~/{folder.name}") == folder
    assert not asked


MODULES = [
    {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.mark.parametrize("old_config", [None, {"__version__": "0.2.5"}])
def test_a_sentence_encoder_in_a_subfolder(tmp_path, old_config):
    (tmp_path / "0_Transformer").mkdir()
    write_checkpoint(tmp_path / "0_Transformer")
    path = tmp_path / "modules.json"
    path.write_text(json.dumps(MODULES))
    if old_config:
        (tmp_path / "config.json").write_text(json.dumps(old_config))
    inner = tmp_path / "0_Transformer"
    assert refusal(tmp_path) == (
        f"{path}: expected the encoder in the same folder, found it in the subfolder '0_Transformer'; pass "
        f"{str(inner)!r}"
    )
    assert resolve_checkpoint(inner) == inner


def test_a_sentence_encoder_in_its_folder(tmp_path):
    write_checkpoint(tmp_path)
    for place in ("", "0_Transformer"):  # the folder itself holds weights, and its name was given
        (tmp_path / "modules.json").write_text(json.dumps([MODULES[0] | {"path": place}, MODULES[1]]))
        assert resolve_checkpoint(tmp_path) == tmp_path
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(UserError, match="modules.json: expected a list, found {}; get the file again"):
        resolve_checkpoint(tmp_path)


@pytest.mark.parametrize("read", [resolve_checkpoint, read_lineage, head_class_names])
def test_an_unknown_home_folder(read):
    with pytest.raises(UserError, match=r"~nobody-of-that-name/x: expected a home folder at '~', found none"):
        read("~nobody-of-that-name/x")


@pytest.mark.parametrize("inner", ["checkpoint-1000", "snapshots/abc"])
def test_a_checkpoint_in_a_subfolder_is_named(tmp_path, inner):
    (tmp_path / inner).mkdir(parents=True)
    write_checkpoint(tmp_path / inner)
    assert refusal(tmp_path) == f"{tmp_path}/config.json: not found; pass {tmp_path / inner}"


@pytest.mark.parametrize("name", ["encoder", "params"])
def test_a_subfolder_does_not_make_a_checkpoint_a_run(tmp_path, name):
    write_checkpoint(tmp_path)
    (tmp_path / name).mkdir()
    assert_holds(load_pretrained(tmp_path)[1], TENSORS)


def test_modules_after_the_encoder_are_left_out_with_a_line(tmp_path, capsys):
    write_checkpoint(tmp_path)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [{"idx": 0, "path": path, "type": f"sentence_transformers.models.{x}"} for path, x in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    load_pretrained(tmp_path)
    assert f"{tmp_path}: left out 2_Dense, which sentence-transformers computes" in capsys.readouterr().err
    assert not is_sentence_encoder(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([modules[i] for i in (0, 1, 3)]))
    assert is_sentence_encoder(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}'
    )
    assert not is_sentence_encoder(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs(tmp_path, name):
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 4\n")
    assert f"{tmp_path / name}: expected weights, found a pointer of Git LFS; run `git lfs pull`" in refusal(tmp_path)
