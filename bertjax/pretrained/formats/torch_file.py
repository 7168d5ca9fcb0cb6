"""Reads files written by `torch.save`, without PyTorch, by an unpickler that can build nothing but tensors.

The file is a zip archive: `data.pkl`, a pickle of the state dict, and one file of raw numbers for each storage. A
pickle may name any function to call. This unpickler knows a handful of names, and checks what they build before use.
"""

import math
import pickle
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bertjax.errors import UserError, reason
from bertjax.pretrained.tensors import StoredTensor

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAX_PICKLE_BYTES = 2**20
"""BERT-large's has 60,000."""

# How files of PyTorch before 1.6 begin.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_torch(path: Path) -> Iterator[StoredTensor]:
    """Yields the tensors of a file.

    Raises:
      UserError: the pickle asks for more than tensors, the format is older than PyTorch 1.6, or the file is broken.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (root,) = (name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise UserError(f"{path}: expected little-endian numbers, found others; save it again as safetensors")
            # `torch.save` never compresses, and compressed data might not fit in memory.
            uncompressed = [entry for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED]
            sizes = {entry.filename.removeprefix(root): entry.file_size for entry in uncompressed}
            if sizes.get("data.pkl", _MAX_PICKLE_BYTES + 1) > _MAX_PICKLE_BYTES:
                raise UserError(
                    f"{path}: expected a data.pkl of at most {_MAX_PICKLE_BYTES:,} bytes, uncompressed, found another; "
                    "save it again as safetensors"
                )
            with archive.open(f"{root}data.pkl") as file:
                state = _Unpickler(file, path).load()
    except UserError:
        raise
    except Exception as error:  # a broken or malicious pickle can raise anything
        raise UserError(_unreadable(path, error)) from None
    if type(state) is not dict or not all(type(tensor) is _Tensor for tensor in state.values()):
        raise UserError(_not_a_state_dict(path))
    for name, tensor in state.items():
        if not tensor.is_within(sizes):
            raise UserError(f"{path}: tensor {name} does not fit its storage; the file is broken, get it again")
        yield StoredTensor(name, path, tensor.shape, partial(tensor.array, path, root))


_PurePython: Any = pickle._Unpickler


class _Storage(NamedTuple):
    kind: str
    key: str
    size: int


class _Tensor(NamedTuple):
    """A strided view of a storage: a tuple, on which a pickle can set no attribute."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def is_within(self, sizes: dict[str, int]) -> bool:
        size = self.storage.size
        # A view may repeat numbers and so have any size. No checkpoint of a BERT needs that.
        if math.prod(self.shape) > size:
            return False
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        is_empty = math.prod(self.shape) == 0
        itemsize = np.dtype(_DTYPES[self.storage.kind]).itemsize
        return sizes.get(f"data/{self.storage.key}") == size * itemsize and (is_empty or self.offset + last < size)

    def array(self, path: Path, root: str) -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive:
                data = archive.read(f"{root}data/{self.storage.key}")
        except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(_unreadable(path, error)) from None
        numbers = np.frombuffer(data, np.dtype(_DTYPES[self.storage.kind]))
        strides = [step * numbers.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


class _Unpickler(_PurePython):
    """Knows only the opcodes of a state dict. In Python: ten bytes can make the C version allocate gigabytes."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, encoding="utf-8")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _NewDict()
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module == "torch" and name in _DTYPES:
            return name
        raise UserError(
            f"{self._path}: expected tensors, found a pickle that asks for {f'{module}.{name}'[:200]!r}; no code in it "
            "was run; convert the file to safetensors with a tool that you trust"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) != 5:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        tag, kind, key, _, size = pid
        # Types are checked first: hashing deeply nested tuples can take forever.
        if type(kind) is not str or kind not in _DTYPES or tag != "storage" or type(key) is not str:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        if not _is_size(size):
            raise pickle.UnpicklingError("a storage of an impossible size")
        return _Storage(kind, key, size)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or any(type(name) is not str for name in items[::2]):
            raise UserError(_not_a_state_dict(self._path))
        target.update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self.set_items([name, value])

    def load_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def load_build(self) -> None:
        self.stack.pop()  # attributes to set; tensors have none


class _Opcodes(dict[int, Any]):
    def __missing__(self, opcode: int) -> Any:
        raise pickle.UnpicklingError(f"opcode {opcode:#04x}, which no state dict has")


_Unpickler.dispatch = _Opcodes(
    {
        getattr(pickle, name)[0]: _PurePython.dispatch[getattr(pickle, name)[0]]
        for name in (
            *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
            *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
            # Found in whole training states: understood so that the error can say what the file holds.
            *("BINFLOAT", "EMPTY_LIST", "APPEND", "APPENDS"),
            *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
            *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"),
        )
    }
    | {
        pickle.SETITEM[0]: _Unpickler.load_setitem,
        pickle.SETITEMS[0]: _Unpickler.load_setitems,
        pickle.BUILD[0]: _Unpickler.load_build,
    }
)


class _NewDict:
    __slots__ = ()

    def __call__(self) -> dict[str, Any]:
        return {}


class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
        is_sound = type(storage) is _Storage and _is_size(offset) and type(shape) is tuple and type(stride) is tuple
        if not is_sound or len(shape) != len(stride) or not all(map(_is_size, (*shape, *stride))):
            raise pickle.UnpicklingError("a tensor of an impossible shape")
        return _Tensor(storage, offset, shape, stride)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _not_a_state_dict(path: Path) -> str:
    return f"{path}: expected a state dict of names and tensors, found more; save only model.state_dict()"


def _unreadable(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY_START))
    except OSError as read_error:
        return f"{path}: cannot be read ({read_error.strerror})"
    if start == _LEGACY_START:
        return (
            f"{path}: expected a zip archive, found the format of PyTorch before 1.6; if you trust the file, load it "
            "with PyTorch and save it as safetensors"
        )
    return f"{path}: not a readable PyTorch file ({reason(error)}); get it again"
