"""The files of weights in a checkpoint folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bertjax.errors import UserError
from bertjax.pretrained.formats import flax_file, safetensors_file, tensorflow_file, torch_file
from bertjax.pretrained.tensors import StoredTensor, shard_files
from bertjax.pretrained.unread_formats import explain_unread_weights, refuse_adapters

_READERS: dict[str, Callable[[Path], Iterator[StoredTensor]]] = {
    "model.safetensors": safetensors_file.read_safetensors,
    "pytorch_model.bin": torch_file.read_torch,
    "flax_model.msgpack": flax_file.read_flax,
}
"""By file, the first that exists; each may be sharded."""
_GOOGLE = "bert_model.ckpt"


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights in a format that `read_weights` reads."""
    names = [name for file in _READERS for name in (file, f"{file}.index.json")]
    return any((folder / name).is_file() for name in [*names, f"{_GOOGLE}.index"])


def read_weights(folder: Path) -> list[StoredTensor]:
    """The tensors of a checkpoint folder; UserError if there are none, or in a format that is not read."""
    refuse_adapters(folder)
    for name, read in _READERS.items():
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            _refuse_pointer(folder / name)
            return list(read(folder / name))
        if index.is_file():
            paths = list(shard_files(index))
            for path in paths:
                _refuse_pointer(path)
            return [tensor for path in paths for tensor in read(path)]
    if (folder / f"{_GOOGLE}.index").is_file():
        return list(tensorflow_file.read_tensorflow(folder / _GOOGLE))
    raise UserError(
        explain_unread_weights(folder)
        or f"{folder}: expected model.safetensors, pytorch_model.bin, flax_model.msgpack, the .index.json of one, "
        "bert_model.ckpt.index or a run's checkpoints, found none"
    )


def _refuse_pointer(path: Path) -> None:
    """UserError if Git stored a pointer in place of a file."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(24) == b"version https://git-lfs."
    except OSError:  # the reader says why
        return
    if is_pointer:
        raise UserError(
            f"{path}: expected weights, found a pointer of Git LFS; run `git lfs pull` in the folder, or download the "
            "file itself"
        )
