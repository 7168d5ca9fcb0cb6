"""What to do with weights in a format that is not read: one line with the file, its format and a command."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from bertjax.errors import UserError
from bertjax.models.config import architecture_names
from bertjax.pretrained.encoder_files import CONFIG_FILES, read_small_json

_SUFFIXES = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin", ".msgpack": "flax_model.msgpack"}
"""The name that each kind of file must have."""
_TRAINING_STATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler)(_\d+)?\.(bin|pt|pth)|rng_state.*|random_states.*|trainer_state\.json"
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "ForFeatureExtraction",
}
_CLASSES = {"BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction", "BertForSequenceClassification"}
"""Of Transformers, for PyTorch and TensorFlow, with heads that are read."""
_SAVE_TENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "s = next((s[k] for k in ('state_dict', 'model_state_dict', 'model') if k in s), s); "
    "save_file({k: v.contiguous().clone() for k, v in s.items()}, sys.argv[2])"
)


def refuse_adapters(folder: Path) -> None:
    """UserError if a folder has adapters of PEFT, which change a model that is stored elsewhere."""
    found = [path.name for path in _files(folder) if re.fullmatch(r"adapter_(config\.json|model\..*)", path.name)]
    if not found:
        return
    config = read_small_json(folder / "adapter_config.json", {}) if "adapter_config.json" in found else {}
    task = _TASKS.get(str(config.get("task_type")), "")
    merge = f"from peft import AutoPeftModel{task} as M; import sys; "
    merge += "M.from_pretrained(sys.argv[1]).merge_and_unload().save_pretrained(sys.argv[2])"
    labels = " (with num_labels=N in from_pretrained if the base model has another number)" if "Class" in task else ""
    raise UserError(
        f"{folder / found[0]}: expected a whole model, found adapters of PEFT; merge them: "
        f"{_python(merge, folder, f'{folder}-merged')}{labels}, and copy the tokenizer's files there too"
    )


def explain_unread_weights(folder: Path) -> str:
    """The line for the first file of weights in a folder that has a format or a name that is not read; "" if none."""
    files = [path for path in _files(folder) if not _TRAINING_STATE.fullmatch(path.name)]
    for explain in (_explain_index, _explain_name, _explain_google, _explain_torch, _explain_keras, _explain_export):
        if line := explain(folder, files):
            return line
    if states := [path.name for path in _files(folder) if _TRAINING_STATE.fullmatch(path.name)]:
        return (
            f"{folder}: expected weights, found only a trainer's state ({', '.join(states[:4])}); get the "
            "model.safetensors of the same checkpoint too"
        )
    return ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def _first(files: Sequence[Path], is_wanted: Callable[[str], object]) -> Path | None:
    return next((path for path in files if is_wanted(path.name)), None)


def _explain_index(folder: Path, files: Sequence[Path]) -> str:
    """Shards whose index is missing, or under another name."""
    shard = _first(files, lambda name: _SHARD.search(name) and Path(name).suffix in _SUFFIXES)
    if shard is None:
        return ""
    expected = f"{_SUFFIXES[shard.suffix]}.index.json"
    index = _first(files, lambda name: re.fullmatch(rf".*{re.escape(shard.suffix)}\.index.*\.json", name))
    if index is None:
        return f"{shard}: expected {expected} beside this shard, found none; get it from where the shards come from"
    return f"{index}: expected the name {expected}; copy it: {_copy(index, folder / expected)}"


def _explain_name(folder: Path, files: Sequence[Path]) -> str:
    openvino = {path.with_suffix(".bin").name for path in files if path.suffix == ".xml"}
    named = [path for path in files if path.suffix in _SUFFIXES and path.name not in openvino]
    path = next((path for path in named if path.suffix != ".bin" or _is_torch(path)), None)
    if path is None:
        return ""
    expected = _SUFFIXES[path.suffix]
    return f"{path}: expected the name {expected}; copy it: {_copy(path, folder / expected)}"


def _explain_google(folder: Path, files: Sequence[Path]) -> str:
    names = [path.name.removesuffix(".index") for path in files if path.name.endswith(".index")]
    data = _first(files, lambda name: re.search(r"\.data-\d{5}-of-\d{5}$", name))
    if not names:
        return "" if data is None else f"{data}: expected its .index beside it, found none; get that file too"
    latest = max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    several = f" (the latest of {len(names)})" if len(names) > 1 else ""
    move = f'for f in {shlex.quote(latest)}.*; do mv "$f" "bert_model.ckpt.${{f##*.}}"; done'
    return (
        f"{folder / latest}.index: expected the name bert_model.ckpt.index, found a TensorFlow checkpoint under another"
        f"{several}; rename it: cd {shlex.quote(str(folder))} && {move}"
    )


def _explain_torch(folder: Path, files: Sequence[Path]) -> str:
    path = _first(files, lambda name: name.endswith((".ckpt", ".pt", ".pth")))
    if path is None:
        return ""
    kind = "a checkpoint of PyTorch Lightning" if path.suffix == ".ckpt" else "a file of torch.save"
    command = _python(_SAVE_TENSORS, path, folder / "model.safetensors")
    return f"{path}: expected model.safetensors, found {kind}; convert it: {command}"


def _explain_keras(folder: Path, files: Sequence[Path]) -> str:
    path = _first(files, lambda name: re.fullmatch(r"tf_model.*\.h5(\.index\.json)?", name))
    if path is None:
        return ""
    model = _class_name(folder)
    # `from_pretrained(d, from_tf=True)` fails in the last versions 4.
    convert = (
        f"from transformers import {model} as M, TF{model} as T, load_tf2_model_in_pytorch_model as load; "
        "import sys; d = sys.argv[1]; t = T.from_pretrained(d); load(M(t.config), t).save_pretrained(d)"
    )
    return (
        f"{path}: expected model.safetensors, found Keras weights; convert them: pip install torch 'transformers<5' "
        f"tensorflow tf-keras, then {_python(convert, folder)}"
    )


def _explain_export(folder: Path, files: Sequence[Path]) -> str:
    kinds = {
        ".onnx": "an ONNX export",
        ".xml": "an OpenVINO export",
        ".gguf": "quantised GGUF weights",
        ".ot": "weights of rust-bert",
        ".h5": "Keras weights of an unknown model",
        ".tflite": "a TensorFlow Lite export",
        ".mlmodel": "a Core ML export",
    }
    path = _first(files, lambda name: Path(name).suffix in kinds)
    if path is None:
        return ""
    return (
        f"{path}: expected model.safetensors, found {kinds[path.suffix]}, which cannot be read back; get the original "
        "checkpoint, with model.safetensors or pytorch_model.bin"
    )


def _is_torch(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")  # a zip archive, or a pickle
    except OSError:
        return False


def _class_name(folder: Path) -> str:
    """The class of Transformers that keeps the checkpoint's heads."""
    config = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)
    names = architecture_names(read_small_json(config, {})) if config else []
    return next((name for name in names if name in _CLASSES), "BertModel")


def _python(code: str, *arguments: object) -> str:
    return shlex.join(["python", "-c", code, *map(str, arguments)])


def _copy(source: Path, target: Path) -> str:
    return shlex.join(["cp", str(source), str(target)])
