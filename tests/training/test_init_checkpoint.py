import copy
import dataclasses
import errno
import json
import os
import re
import shutil

import jax.numpy as jnp
import pytest

from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.pretrained import load_pretrained
from bertjax.training import finetuning, init_checkpoint


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def described(folder):
    return init_checkpoint.describe_init_checkpoint([{"init_from": "somewhere"}], folder, load_pretrained(folder)[1])


def more_words(folder):
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("film", "movie"))


def more_dropout(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_dropout_prob": 0.3}))


@pytest.mark.parametrize(
    ("change", "told"), [(more_words, "origin.files.vocab.txt"), (more_dropout, "origin.files.config.json")]
)
def test_other_small_files(checkpoint, tmp_path, change, told):
    init_checkpoint.keep_init_checkpoint(tmp_path, described(checkpoint))
    init_checkpoint.keep_init_checkpoint(tmp_path, described(checkpoint))
    change(checkpoint)
    with pytest.raises(UserError) as raised:
        init_checkpoint.keep_init_checkpoint(tmp_path, described(checkpoint))
    digest, folder = "'[0-9a-f]{64}'", re.escape(str(tmp_path))
    expected = (
        f"{folder}/origin.json: this run began from another checkpoint than --config.init_from is now: {told} was "
        f"{digest}, is now {digest}; restore that one, or use another --workdir, or remove {folder} to start again"
    )
    assert re.fullmatch(expected, str(raised.value))


def test_another_past_and_other_words(checkpoint, tmp_path):
    _, params = load_pretrained(checkpoint)
    first = init_checkpoint.describe_init_checkpoint([{"init_from": "a@1"}], checkpoint, params)
    init_checkpoint.keep_init_checkpoint(tmp_path, first)
    with pytest.raises(UserError, match="origin.lineage was .*'a@1'.*, is now .*'a@2'.*; restore"):
        init_checkpoint.keep_init_checkpoint(
            tmp_path, init_checkpoint.describe_init_checkpoint([{"init_from": "a@2"}], checkpoint, params)
        )
    moved = copy.deepcopy(params)
    words = moved["embeddings"]["word"]["embedding"]
    moved["embeddings"]["word"]["embedding"] = words.at[3, 5].set(jnp.nextafter(words[3, 5], 9.0))
    with pytest.raises(UserError, match="now: origin.word_embeddings was"):
        init_checkpoint.keep_init_checkpoint(
            tmp_path, init_checkpoint.describe_init_checkpoint([{"init_from": "a@1"}], checkpoint, moved)
        )


@pytest.mark.parametrize("text", ["3", "[]", "{", "{}"])
def test_a_broken_file_is_one_line(tmp_path, text):
    (tmp_path / "origin.json").write_text(text)
    with pytest.raises(UserError, match="origin.json: .*use another --workdir, or remove .* to start again$"):
        init_checkpoint.keep_init_checkpoint(tmp_path, {"lineage": [], "files": {}, "word_embeddings": ""})


def test_a_run_that_was_cut_off_does_not_go_on_from_another_checkpoint(checkpoint, sst_folder, tmp_path):
    config = RunConfig(
        task="sst5", data_dir=str(sst_folder), init_from=str(checkpoint), batch_size=8, max_length=8, max_steps=1
    )
    finetuning.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    kept = (tmp_path / "run" / "encoder" / "config.json").read_bytes()
    shutil.copy(checkpoint / "config.json", tmp_path)
    more_dropout(checkpoint)
    with pytest.raises(UserError, match="this run began from another checkpoint"):
        finetuning.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "encoder" / "config.json").read_bytes() == kept
    shutil.copy(tmp_path / "config.json", checkpoint)
    moved = shutil.move(sst_folder, tmp_path / "moved")
    finetuning.train_and_evaluate(dataclasses.replace(config, data_dir=str(moved)), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data_dir"] == str(moved)


def test_a_small_file_that_cannot_be_read(checkpoint, monkeypatch):
    _, params = load_pretrained(checkpoint)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(UserError, match=r"config.json: cannot be read \(Permission denied\); check its permissions"):
        init_checkpoint.describe_init_checkpoint([], checkpoint, params)


def test_files_that_earlier_versions_did_not_record(checkpoint, tmp_path):
    write_map = (checkpoint / "special_tokens_map.json").write_text
    write_map('{"cls_token": "[CLS]"}')
    record = described(checkpoint)
    earlier = record | {"files": {name: record["files"][name] for name in ("config.json", "vocab.txt")}}
    earlier["files"]["tokenizer_config.json"] = record["files"]["tokenizer_config.json"]
    (tmp_path / "origin.json").write_text(json.dumps(earlier))
    init_checkpoint.keep_init_checkpoint(tmp_path, record)
    (tmp_path / "origin.json").unlink()
    init_checkpoint.keep_init_checkpoint(tmp_path, record)
    write_map('{"cls_token": "[MASK]"}')
    with pytest.raises(UserError, match="origin.files.special_tokens_map.json was"):
        init_checkpoint.keep_init_checkpoint(tmp_path, described(checkpoint))
