"""Tensors of a file by `torch.save`, read without PyTorch by an unpickler that can build nothing else.

The file is a zip archive: `data.pkl`, a pickle of the state dict, and one file of raw numbers for each storage. A
pickle may name any function to call; this one is given five names, and whatever it builds is checked before use.
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


_MOST = 2**20
"""Bytes of a pickle; one of BERT-large's has 60,000."""


_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_torch(path: Path) -> Iterator[StoredTensor]:
    """The tensors of a file.

    Raises:
      UserError: a pickle that asks for more than tensors, the format of before PyTorch 1.6, or a broken file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (root,) = (name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise UserError(f"{path}: expected little-endian numbers, found others; save it again as safetensors")
            # `torch.save` never compresses: what is compressed might not fit in memory.
            plain = [entry for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED]
            sizes = {entry.filename.removeprefix(root): entry.file_size for entry in plain}
            if sizes.get("data.pkl", _MOST + 1) > _MOST:
                raise UserError(
                    f"{path}: expected a data.pkl of at most {_MOST:,} bytes, not compressed, found another; "
                    "save it again as safetensors"
                )
            with archive.open(f"{root}data.pkl") as file:
                state = _Unpickler(file, path).load()
    except UserError:
        raise
    except Exception as error:  # a pickle that is broken, or means harm, raises whatever it likes
        raise UserError(_complaint(path, error)) from None
    if type(state) is not dict or not all(type(tensor) is _Tensor for tensor in state.values()):
        raise UserError(_more_than_tensors(path))
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
        # A view may show a number more than once, and so be of any size; none of a BERT does.
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
            raise UserError(_complaint(path, error)) from None
        numbers = np.frombuffer(data, np.dtype(_DTYPES[self.storage.kind]))
        strides = [step * numbers.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


class _Unpickler(_PurePython):
    """In Python, as C's can be told to allocate gigabytes by ten bytes; and knows but the opcodes of a state dict."""

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
            f"{self._path}: expected tensors, found a pickle that asks for {f'{module}.{name}'[:200]!r}; nothing of it "
            "was run; convert the file to safetensors with a tool that you trust"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) != 5:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        tag, kind, key, _, size = pid
        # The type comes first: to hash a tuple of tuples of tuples can take for ever.
        if type(kind) is not str or kind not in _DTYPES or tag != "storage" or type(key) is not str:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        if not _is_size(size):
            raise pickle.UnpicklingError("a storage of an impossible size")
        return _Storage(kind, key, size)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or any(type(name) is not str for name in items[::2]):
            raise UserError(_more_than_tensors(self._path))
        target.update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self.set_items([name, value])

    def load_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def load_build(self) -> None:
        self.stack.pop()  # attributes, of which no tensor has any


class _Opcodes(dict[int, Any]):
    def __missing__(self, opcode: int) -> Any:
        raise pickle.UnpicklingError(f"opcode {opcode:#04x}, which no state dict has")


_Unpickler.dispatch = _Opcodes(
    {
        getattr(pickle, name)[0]: _PurePython.dispatch[getattr(pickle, name)[0]]
        for name in (
            *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
            *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
            # Of whole training states, which are then told from a state dict.
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


def _more_than_tensors(path: Path) -> str:
    return f"{path}: expected a state dict, names and tensors alone, found more; save model.state_dict() alone"


def _complaint(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
    except OSError as unreadable:
        return f"{path}: cannot be read ({unreadable.strerror})"
    if start == _LEGACY:
        return (
            f"{path}: expected a zip archive, found the format of before PyTorch 1.6; load it with a PyTorch that you "
            "trust it to, and save it as safetensors"
        )
    return f"{path}: not a readable PyTorch file ({reason(error)}); get it again"
