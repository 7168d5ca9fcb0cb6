"""Runs and converted folders as sources of parameters, vocabulary and lineage."""

import json
import os
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import (
    GOLDEN,
    LINEAGE,
    TENSORS,
    assert_holds,
    random_head,
    random_mlm,
    random_params,
    refusal,
    write_checkpoint,
    write_run,
    write_tokenizer,
)

from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.models.config import BertConfig
from bertjax.pretrained import copy_encoder_files, load_pretrained, read_lineage, read_model_config, resolve_checkpoint
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.pretrained.tokenizer import load_tokenizer

CONFIG = BertConfig.from_dict(GOLDEN["config"])
FINAL = random_params(CONFIG, 3) | {
    "head_sst5": random_head(CONFIG, 5, 4),
    "head_nsp": random_head(CONFIG, 2, 5),
    "mlm": random_mlm(CONFIG),
}
BEST = jax.tree.map(lambda x: x + 1, FINAL)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", CONFIG, {3: BEST, 7: FINAL}, {})


@pytest.mark.parametrize("part", ["", "encoder"])
def test_a_run_gives_its_final_parameters_vocabulary_and_lineage(run, part):
    source = run / part
    assert resolve_checkpoint(source) == resolve_checkpoint(str(source)) == run / "encoder"
    config, params = load_pretrained(source)
    assert config == read_model_config(resolve_checkpoint(source)) == CONFIG
    chex.assert_trees_all_equal(params, jax.tree.map(jnp.asarray, FINAL))
    assert read_lineage(source) == LINEAGE


def test_a_relative_path(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    chex.assert_trees_all_equal(load_pretrained("run")[1], jax.tree.map(jnp.asarray, FINAL))


@pytest.mark.parametrize("read", [resolve_checkpoint, load_pretrained, read_lineage])
def test_an_unfinished_run(run, read):
    (run / "result.json").unlink()
    with pytest.raises(UserError) as raised:
        read(run)
    assert str(raised.value).startswith(f"{run}: expected a finished run, found one without result.json; ")
    # The encoder's folder alone still has an architecture and a vocabulary.
    assert resolve_checkpoint(run / "encoder") == run / "encoder"


def test_a_run_without_its_checkpoint(run):
    shutil.rmtree(run / "checkpoints" / "7")
    path = run / "checkpoints" / "7" / "params"
    assert refusal(run).startswith(f"{path}: not a readable Orbax checkpoint (")


def test_a_broken_checkpoint(run):
    path = run / "checkpoints" / "7" / "params"
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert refusal(run).startswith(f"{path}: not a readable Orbax checkpoint (")


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"steps": "x", "lineage": 3}'])
def test_a_broken_result(run, text):
    (run / "result.json").write_text(text)
    refusal(run)
    with pytest.raises(UserError, match=r"result\.json: "):
        read_lineage(run)


def test_parameters_of_another_architecture(tmp_path):
    params = random_params(CONFIG) | {"head_a": {"kernel": np.zeros((11, 2)), "bias": np.zeros(2)}}
    params["more"] = np.zeros(3)
    del params["layer_1"]["output_norm"]["affine"]["scale"], params["pooler"]["bias"]
    run = write_run(tmp_path / "run", CONFIG, {1: params}, {})
    assert refusal(run) == (
        f"{run / 'checkpoints' / '1' / 'params'}: parameters do not fit config.json: "
        "missing: layer_1/output_norm/affine/scale, pooler/bias; surplus: more; "
        "misshapen: head_a/kernel (expected [12, 2], found [11, 2])"
    )


def test_an_incomplete_language_model_head(tmp_path):
    params = random_params(CONFIG) | {"mlm": {"bias": np.zeros(24, np.float32)}}
    run = write_run(tmp_path / "run", CONFIG, {1: params}, {})
    assert "missing: mlm/norm/affine/bias, mlm/norm/affine/scale, mlm/transform/bias, " in refusal(run)


# Converted folders


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write_tokenizer(folder)
    return write_checkpoint(folder)


def test_a_converted_folder_equals_its_source(source, tmp_path):
    out = convert(source, tmp_path / "out")
    assert resolve_checkpoint(out) == out
    config, params = load_pretrained(out)
    assert config == CONFIG
    assert_holds(params, TENSORS)
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "vocab.txt", "tokenizer_config.json", "lineage.json", "params")
    }
    assert load_tokenizer(out).get_vocab() == load_tokenizer(source).get_vocab()
    assert read_lineage(out) == [{"init_from": str(source)}]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_converting_a_run_keeps_its_heads_and_lineage(run, tmp_path):
    out = convert(run, tmp_path / "out")
    chex.assert_trees_all_equal(load_pretrained(out)[1], jax.tree.map(jnp.asarray, FINAL))
    assert read_lineage(out) == LINEAGE


@pytest.mark.parametrize("starter", ["minilm-l6", "mpnet-base"])
def test_the_lineage_names_the_starter(source, tmp_path, monkeypatch, starter):
    monkeypatch.setattr(assets, "fetch_asset", lambda name: source)
    (entry,) = read_lineage(convert(starter, tmp_path / "out"))
    assert entry["init_from"] == starter
    assert "Quora" in entry["note"]


def test_google_s_config_becomes_config_json(source, tmp_path):
    (source / "config.json").rename(source / "bert_config.json")
    assert read_model_config(source) == CONFIG
    out = convert(source, tmp_path / "out")
    assert json.loads((out / "config.json").read_text()) == GOLDEN["config"]
    (source / "config.json").write_text(json.dumps(GOLDEN["config"] | {"layer_norm_eps": 0.5}))
    assert read_model_config(source).layer_norm_eps == 0.5  # config.json takes precedence


def test_convert_adds_no_pooler(tmp_path, source, capsys):
    write_checkpoint(source, {name: x for name, x in TENSORS.items() if not name.startswith("pooler")})
    out = convert(source, tmp_path / "out")
    assert capsys.readouterr().err == ""
    load_pretrained(out)
    assert "no pooler in this checkpoint" in capsys.readouterr().err


def complaint(*arguments):
    with pytest.raises(UserError) as raised:
        convert(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_output_that_exists(source, tmp_path):
    out = tmp_path / "out"
    expected = f"{out}: expected a new folder to write, found an existing one; "
    for make in (out.mkdir, lambda: out.write_text("mine"), lambda: out.symlink_to("nowhere")):
        make()
        assert complaint(source, out).startswith(expected)
        shutil.rmtree(out) if out.is_dir() else out.unlink()


def test_a_failure_leaves_nothing_behind(source, tmp_path, monkeypatch):
    before = sorted(tmp_path.iterdir())
    complaint(tmp_path / "gone", tmp_path / "out")
    (source / "model.safetensors").write_bytes(b"")
    complaint(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    assert complaint(source, tmp_path / "file" / "out").startswith(f"{tmp_path / 'file' / 'out'}: cannot be written (")


@pytest.mark.parametrize("write", [convert, export])
def test_a_full_disk_is_one_line_and_leaves_nothing(source, tmp_path, write):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(tmp_path.iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        with pytest.raises(UserError, match=r"out: cannot be written \(.*File too large.*\); free space"):
            write(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before


# Malicious links


def plant(link, folder):
    """Creates a link to a file outside, and returns that file."""
    target = folder / f"target-{link.name}"
    target.write_bytes(b"mine")
    link.parent.mkdir(exist_ok=True, parents=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return target


SMALL = ("config.json", "vocab.txt", "tokenizer_config.json")


@pytest.mark.parametrize("planted", [*SMALL, *(f".{name}.partial" for name in SMALL)])
def test_a_link_is_replaced_and_not_followed(source, tmp_path, planted):
    target = plant(tmp_path / "kept" / planted, tmp_path)
    copy_encoder_files(source, tmp_path / "kept")
    assert target.read_bytes() == b"mine"
    assert not any(path.is_symlink() for path in (tmp_path / "kept").iterdir())
    for name in SMALL:
        assert (tmp_path / "kept" / name).read_bytes() == (source / name).read_bytes()
    assert len(list((tmp_path / "kept").iterdir())) == len(SMALL)


def test_a_folder_that_is_a_link(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept").symlink_to("elsewhere")
    copy_encoder_files(source, tmp_path / "kept")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "kept" / "config.json").is_file()


def test_a_copy_that_cannot_be_written(source, tmp_path):
    (tmp_path / "kept" / "vocab.txt").mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        copy_encoder_files(source, tmp_path / "kept")
    assert str(raised.value).startswith(f"{tmp_path / 'kept'}: {source} cannot be copied there (Is a directory); ")


@pytest.mark.parametrize("write", [convert, export])
def test_nothing_is_written_through_a_link(source, tmp_path, write):
    """Both write to a temporary folder beside OUT with a predictable name."""
    partial = tmp_path / ".out.partial"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = ("config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "lineage.json")
    targets = [plant(elsewhere / name, tmp_path) for name in files]
    partial.symlink_to(elsewhere)
    write(source, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for name in files:
        plant(partial / name, tmp_path)
    (partial / "params").symlink_to(elsewhere)
    write(source, tmp_path / "out")
    assert not any(path.is_symlink() for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")])
    assert {path.name for path in elsewhere.iterdir()} == set(files)
    assert all(target.read_bytes() == b"mine" for target in targets)
    assert not os.path.lexists(partial)


def test_the_lineage_of_a_checkpoint_without_one(source, monkeypatch):
    monkeypatch.setattr(assets, "fetch_asset", lambda name: pytest.fail("fetched"))
    note = "its own training saw Quora duplicates, SNLI and MultiNLI"
    for starter in ("minilm-l6", "mpnet-base"):
        assert read_lineage(starter) == [{"init_from": starter, "note": note}]
    pinned = "bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594"
    assert read_lineage("bert-base-uncased") == read_lineage(pinned) == [{"init_from": pinned}]
    assert read_lineage(source) == [{"init_from": str(source)}]
    (source / "lineage.json").write_text("{}")
    with pytest.raises(UserError, match=r"lineage\.json: expected a list, found {}; "):
        read_lineage(source)
