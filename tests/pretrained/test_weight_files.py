"""Folders whose weights are not read as they are: one line with the file, its format and a command that works."""

import json
import pickle
import re
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from checkpoints import GOLDEN, TENSORS, assert_holds, refusal, write_checkpoint, write_safetensors

from bertjax.pretrained import load_pretrained
from bertjax.pretrained.formats import tensorflow_file


@pytest.fixture
def folder(tmp_path):
    """A folder with a config and no weights, whose name needs quotes in a shell."""
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GOLDEN["config"]))
    return folder


def put(folder, *names, data=b""):
    for name in names:
        (folder / name).write_bytes(data)
    return folder


def run_command_of(message):
    """Runs the command at the end of a message, with this interpreter."""
    command = message[re.search(r"\b(python -c|cd|cp) ", message).start() :]
    subprocess.run(["bash", "-c", re.sub("^python", sys.executable, command)], check=True)


# Weights under another name


def test_safetensors_under_another_name(folder):
    write_safetensors(folder / "model.fp16.safetensors", TENSORS)
    message = refusal(folder)
    path = folder / "model.fp16.safetensors"
    assert message == (
        f"{path}: expected the name model.safetensors; copy it: "
        f"{shlex.join(['cp', str(path), str(folder / 'model.safetensors')])}"
    )
    run_command_of(message)
    assert_holds(load_pretrained(folder)[1], TENSORS)


@pytest.mark.parametrize(
    ("name", "expected", "data"),
    [
        ("pytorch_model.fp16.bin", "pytorch_model.bin", b"PK\3\4"),
        ("bert.bin", "pytorch_model.bin", b"\x80\x02"),
        ("bert.msgpack", "flax_model.msgpack", b""),
    ],
)
def test_other_formats_under_another_name(folder, name, expected, data):
    message = refusal(put(folder, name, data=data))
    assert message.startswith(f"{folder / name}: expected the name {expected}; copy it: cp ")
    run_command_of(message)
    assert (folder / expected).read_bytes() == data


def test_shards_whose_index_has_another_name(folder):
    names = sorted(TENSORS)
    files = {f"model.fp16-0000{i + 1}-of-00002.safetensors": names[i::2] for i in (0, 1)}
    for file, part in files.items():
        write_safetensors(folder / file, {name: TENSORS[name] for name in part})
    first = folder / min(files)
    assert refusal(folder) == (
        f"{first}: expected model.safetensors.index.json beside this shard, found none; get it from where the shards "
        "come from"
    )
    weight_map = {name: file for file, part in files.items() for name in part}
    index = folder / "model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    message = refusal(folder)
    assert message.startswith(f"{index}: expected the name model.safetensors.index.json; copy it: cp ")
    run_command_of(message)
    assert_holds(load_pretrained(folder)[1], TENSORS)


def test_a_tensorflow_checkpoint_under_another_name(folder, monkeypatch):
    ends = ("index", "data-00000-of-00001", "meta")
    put(folder, *(f"model.ckpt-{step}.{end}" for step in (900, 1000, 10) for end in ends), "checkpoint")
    message = refusal(folder)
    assert message.startswith(
        f"{folder / 'model.ckpt-1000.index'}: expected the name bert_model.ckpt.index, found a TensorFlow checkpoint "
        "under another (the latest of 3); rename it: cd "
    )
    run_command_of(message)
    assert all((folder / f"bert_model.ckpt.{end}").is_file() for end in ends)
    assert (folder / "model.ckpt-900.index").is_file()
    monkeypatch.setattr(tensorflow_file, "read_tensorflow", lambda prefix: pytest.fail("found", prefix))
    with pytest.raises(pytest.fail.Exception):
        load_pretrained(folder)


def test_a_tensorflow_checkpoint_without_its_index(folder):
    path = put(folder, "bert_model.ckpt.data-00000-of-00001") / "bert_model.ckpt.data-00000-of-00001"
    assert refusal(folder) == f"{path}: expected its .index beside it, found none; get that file too"


# Files of torch.save


@pytest.mark.parametrize("name", ["model.pt", "bert.pth", "epoch=3.ckpt"])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_a_file_of_torch_save(folder, name, key):
    torch = pytest.importorskip("torch")
    words = torch.from_numpy(TENSORS["embeddings.word_embeddings.weight"])
    state = {f"bert.{name}": torch.from_numpy(x) for name, x in TENSORS.items()}
    state |= {"bert.embeddings.word_embeddings.weight": words, "cls.predictions.decoder.weight": words}
    torch.save({key: state, "epoch": 3} if key else state, folder / name)
    message = refusal(folder)
    kind = "a checkpoint of PyTorch Lightning" if name.endswith("ckpt") else "a file of torch.save"
    assert message.startswith(f"{folder / name}: expected model.safetensors, found {kind}; convert it: python -c ")
    if name == "model.pt":  # one process per key, of some seconds, is enough
        run_command_of(message)
        assert_holds(load_pretrained(folder)[1], TENSORS)


# What needs another program


@pytest.mark.parametrize("names", [["tf_model.h5"], ["tf_model-00001-of-00002.h5", "tf_model.h5.index.json"]])
@pytest.mark.parametrize(
    ("architectures", "model"),
    [
        (["BertForSequenceClassification"], "BertForSequenceClassification"),
        (["BertForPreTraining"], "BertForPreTraining"),
        (["BertForTokenClassification"], "BertModel"),
        (["BertForEverything"], "BertModel"),
        (None, "BertModel"),
    ],
)
def test_keras_weights(folder, names, architectures, model):
    (folder / "config.json").write_text(json.dumps(GOLDEN["config"] | {"architectures": architectures}))
    message = refusal(put(folder, *names))
    code = (
        f"from transformers import {model} as M, TF{model} as T, load_tf2_model_in_pytorch_model as load; import sys; "
        "d = sys.argv[1]; t = T.from_pretrained(d); load(M(t.config), t).save_pretrained(d)"
    )
    assert message == (
        f"{folder / names[0]}: expected model.safetensors, found Keras weights; convert them: pip install torch "
        f"'transformers<5' tensorflow tf-keras, then {shlex.join(['python', '-c', code, str(folder)])}"
    )


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model.onnx"], "an ONNX export"),
        (["openvino_model.bin", "openvino_model.xml"], "an OpenVINO export"),
        (["bert.Q4_K_M.gguf"], "quantised GGUF weights"),
        (["rust_model.ot"], "weights of rust-bert"),
        (["bert.h5"], "Keras weights of an unknown model"),
        (["model.tflite"], "a TensorFlow Lite export"),
    ],
)
@pytest.mark.parametrize("has_config", [True, False])
def test_exports_that_cannot_be_read_back(folder, names, kind, has_config):
    put(folder, *names, data=b"PK")
    if not has_config:
        (folder / "config.json").unlink()
    assert refusal(folder) == (
        f"{folder / names[-1]}: expected model.safetensors, found {kind}, which cannot be read back; get the original "
        "checkpoint, with model.safetensors or pytorch_model.bin"
    )


def test_a_trainer_s_state_alone(folder):
    names = ["optimizer.pt", "rng_state_0.pth", "scheduler.pt", "trainer_state.json", "training_args.bin"]
    assert refusal(put(folder, *names, data=b"PK")) == (
        f"{folder}: expected weights, found only a trainer's state (optimizer.pt, rng_state_0.pth, scheduler.pt, "
        "trainer_state.json); get the model.safetensors of the same checkpoint too"
    )


def test_a_binary_file_that_is_not_pytorch_s(folder):
    assert "expected model.safetensors, pytorch_model.bin, " in refusal(put(folder, "vocab.bin", data=b"\0\1"))


def test_weights_that_are_read_come_first(folder):
    put(folder, "model.onnx", "tf_model.h5", "model.fp16.safetensors", "last.ckpt", "training_args.bin")
    assert_holds(load_pretrained(write_checkpoint(folder))[1], TENSORS)


# PEFT


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("SEQ_CLS", "AutoPeftModelForSequenceClassification"),
        ("FEATURE_EXTRACTION", "AutoPeftModelForFeatureExtraction"),
        (None, "AutoPeftModel"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_adapters_of_peft(folder, task, model, is_whole):
    if is_whole:
        write_checkpoint(folder)
    else:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"task_type": task, "peft_type": "LORA"}))
    put(folder, "adapter_model.safetensors")
    message = refusal(folder)
    assert message.startswith(
        f"{folder / 'adapter_config.json'}: expected a whole model, found adapters of PEFT; merge them: python -c "
    )
    assert f"from peft import {model} as M; import sys; M.from_pretrained(sys.argv[1]).merge_and_unload()." in message
    assert ("num_labels=N" in message) == (task == "SEQ_CLS")


def test_adapters_without_their_config(folder):
    message = refusal(put(folder, "adapter_model.bin"))
    assert message.startswith(f"{folder / 'adapter_model.bin'}: expected a whole model, found adapters of PEFT; ")


def test_nothing_in_another_file_is_unpickled(folder):
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(np.zeros(1)))
    assert "found a file of torch.save" in refusal(folder)
