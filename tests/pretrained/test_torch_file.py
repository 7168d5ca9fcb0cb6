"""Files of `torch.save`: written by PyTorch itself where it is installed, and malicious ones byte by byte."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import chex
import numpy as np
import pytest
from checkpoints import COARSE, GOLDEN, TENSORS, assert_holds, refusal

from bertjax.errors import UserError
from bertjax.pretrained import load_pretrained
from bertjax.pretrained.formats import torch_file


class Global:
    """Pickled as a reference to a name of another module, without that module."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call, which is run when it is loaded."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Storage:
    def __init__(self, kind, key, size):
        self.pid = ("storage", Global("torch", kind), key, "cpu", size)


class Pickler(pickle._Pickler):
    """Python's own, extended by the two things in PyTorch's files: storages, and names of other modules."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save_global(self, obj, name=None):
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save_global(obj, name)

    dispatch = pickle._Pickler.dispatch | {Global: save_global}

    def save_reduce(self, func, args, *rest, obj=None, **more):
        if isinstance(func, Global):
            self.save(func)
            self.save(args)
            self.write(pickle.REDUCE)
        else:
            super().save_reduce(func, args, *rest, obj=obj, **more)


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(storage, offset, shape, stride):
    return Call(REBUILD, storage, offset, shape, stride, False, OrderedDict())


NUMBERS = tensor(Storage("FloatStorage", "0", 4), 0, (4,), (1,))


def write(path, state, storages, **options):
    """A file in `torch.save`'s format; `state` may be the bytes of a pickle."""
    if not isinstance(state, bytes):
        file = io.BytesIO()
        Pickler(file, protocol=2).dump(state)
        state = file.getvalue()
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", state)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_state(path, tensors):
    state, storages = {}, {}
    for i, (name, x) in enumerate(tensors.items()):
        strides = tuple(step // x.itemsize for step in x.strides)
        state[name] = tensor(Storage("FloatStorage", str(i), x.size), 0, x.shape, strides)
        storages[str(i)] = x.tobytes()
    return write(path, state, storages)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GOLDEN["config"]))
    return tmp_path


def read(path):
    return {stored.name: stored.read() for stored in torch_file.read_torch(path)}


def complaint(path):
    with pytest.raises(UserError) as info:
        read(path)
    message = str(info.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# What PyTorch writes


def test_a_state_dict_without_pytorch(folder):
    write_state(folder / "pytorch_model.bin", TENSORS)
    assert_holds(load_pretrained(folder)[1], TENSORS)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_state_dict_of_pytorch(torch, folder, dtype):
    state = {name: torch.from_numpy(x).to(getattr(torch, dtype)) for name, x in COARSE.items()}
    state["pooler.dense.weight"] = torch.nn.Parameter(state["pooler.dense.weight"])
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")
    assert_holds(load_pretrained(folder)[1], COARSE)


def test_a_whole_model_s_state_dict(torch, folder):
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel(transformers.BertConfig(**GOLDEN["config"]))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert_holds(load_pretrained(folder)[1], {name: x.numpy() for name, x in model.state_dict().items()})


def test_views_of_a_storage(torch, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "transposed": base.T,
        "stepped": base[1::2, ::3],
        "row": base[3],
        "repeated": base[0].expand(3, 6),
        "scalar": torch.tensor(7.0),
        "empty": base[4:],
        "integers": torch.arange(3),
    }
    torch.save(views, tmp_path / "views.bin")
    found = read(tmp_path / "views.bin")
    chex.assert_trees_all_equal(found, {name: x.numpy() for name, x in views.items()})


def test_shards(folder):
    names = sorted(TENSORS)
    weight_map = {}
    for i in (0, 1):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        write_state(folder / file, {name: TENSORS[name] for name in names[i::2]})
        weight_map |= dict.fromkeys(names[i::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_holds(load_pretrained(folder)[1], TENSORS)


# What is refused


def test_missing_surplus_and_misshapen_tensors(folder):
    tensors = TENSORS | {"encoder.more": np.zeros(1, np.float32), "pooler.dense.weight": np.zeros((12, 11), np.float32)}
    del tensors["pooler.dense.bias"]
    write_state(folder / "pytorch_model.bin", tensors)
    assert refusal(folder) == (
        f"{folder}: tensors do not fit config.json: missing: pooler.dense.bias; surplus: encoder.more; "
        "misshapen: pooler.dense.weight (expected [12, 12], found [12, 11])"
    )


def test_quantised_tensors(folder):
    path = write_state(folder / "pytorch_model.bin", TENSORS)
    numbers = TENSORS["pooler.dense.bias"].astype(np.int8)
    state = {"x": tensor(Storage("CharStorage", "0", 12), 0, (12,), (1,))}
    write(path, state, {"0": numbers.tobytes()})
    (stored,) = torch_file.read_torch(path)
    with pytest.raises(UserError, match="tensor x is stored as int8, expected one of F64, F32, F16, BF16"):
        stored.float32()


@pytest.mark.parametrize(
    ("size", "offset", "shape", "stride"),
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 4, (1,), (1,)),
        (5, 0, (4,), (1,)),
        (3, 0, (3,), (1,)),
    ],
    ids=["long", "offset", "stride", "all beyond", "a storage that is short", "a storage that is long"],
)
def test_a_tensor_beyond_its_storage(tmp_path, size, offset, shape, stride):
    state = {"x": tensor(Storage("FloatStorage", "0", size), offset, shape, stride)}
    path = write(tmp_path / "x.bin", state, {"0": bytes(16)})
    assert complaint(path) == "tensor x does not fit its storage; the file is broken, get it again"


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, [4], (1,)),
        (0, (True,), (1,)),
        (0, (2**70,), (0,)),
        (0.0, (1,), (1,)),
    ],
)
def test_a_tensor_of_an_impossible_shape(tmp_path, offset, shape, stride):
    state = {"x": tensor(Storage("FloatStorage", "0", 4), offset, shape, stride)}
    path = write(tmp_path / "x.bin", state, {"0": bytes(16)})
    assert complaint(path) == "not a readable PyTorch file (a tensor of an impossible shape); get it again"


def test_a_compressed_storage_is_not_unpacked(tmp_path):
    state = {"x": tensor(Storage("FloatStorage", "0", 2**20), 0, (2**20,), (1,))}
    path = write(tmp_path / "x.bin", state, {})
    with zipfile.ZipFile(path, "a", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**22))
    assert "does not fit its storage" in complaint(path)


@pytest.mark.parametrize(("size", "compression"), [(2**20 + 1, zipfile.ZIP_STORED), (9, zipfile.ZIP_DEFLATED)])
def test_a_pickle_too_large_or_compressed(tmp_path, size, compression):
    path = write(tmp_path / "x.bin", b"\x80\x02}.".ljust(size, b"."), {}, compression=compression)
    assert complaint(path).startswith("expected a data.pkl of at most 1,048,576 bytes, ")


def test_a_view_that_repeats_numbers(tmp_path):
    state = {"x": tensor(Storage("FloatStorage", "0", 4), 0, (2**30,), (0,))}
    assert "does not fit its storage" in complaint(write(tmp_path / "x.bin", state, {"0": bytes(16)}))


def test_a_huge_memo_index_takes_no_memory(tmp_path):
    path = write(tmp_path / "x.bin", b"\x80\x02}r\xff\xff\xff\x7f.", {})
    tracemalloc.start()
    assert read(path) == {}
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    "state", [b"\x96" + bytes(7) + b"\x01", b"\x8e" + bytes(7) + b"\x01", b"cos\nsystem\n(i", b"\x85o"]
)
def test_opcodes_that_no_state_dict_uses(tmp_path, state):
    path = write(tmp_path / "x.bin", b"\x80\x05}" + state + b".", {})
    assert "opcode 0x" in complaint(path) or "found a pickle that asks for" in complaint(path)


# A pair of a pair of a pair, 60 deep: hashing it takes 2^60 steps.
PAIRS = b"K\x01q\x00" + 60 * b"h\x00\x86q\x00"


@pytest.mark.parametrize("call", [b"", b"ccollections\nOrderedDict\n)R"])
def test_a_key_that_takes_forever_to_hash(tmp_path, call):
    for state in ((call or b"}") + PAIRS + b"K\x01s.", (call or b"}") + b"(" + PAIRS + b"K\x01u."):
        assert "found more; save" in complaint(write(tmp_path / "x.bin", b"\x80\x02" + state, {}))


def test_items_of_an_ordered_dictionary_that_take_forever_to_hash(tmp_path):
    state = b"\x80\x02ccollections\nOrderedDict\n" + PAIRS + b"K\x01\x86\x85\x85R."
    assert complaint(write(tmp_path / "x.bin", state, {})).startswith("not a readable PyTorch file (")


def test_a_kind_of_storage_that_takes_forever_to_hash(tmp_path):
    pid = b"(X\x07\x00\x00\x00storage" + PAIRS + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ."
    assert "a storage of an unknown kind" in complaint(write(tmp_path / "x.bin", b"\x80\x02" + pid, {}))


@pytest.mark.parametrize("state", [[], 3, {"epoch": 3}, {"model": {}}, "x", {1: NUMBERS}, {None: NUMBERS}, NUMBERS])
def test_more_than_a_state_dict(tmp_path, state):
    path = write(tmp_path / "x.bin", state, {"0": bytes(16)})
    assert complaint(path).startswith("expected a state dict of names and tensors, found more; save")


def test_big_endian_numbers(tmp_path):
    path = write(tmp_path / "x.bin", {}, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    assert complaint(path).startswith("expected little-endian numbers")


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_truncated_file(tmp_path, keep):
    path = write_state(tmp_path / "x.bin", TENSORS)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert complaint(path).startswith("not a readable PyTorch file (")


def test_a_damaged_storage(folder):
    path = write_state(folder / "pytorch_model.bin", TENSORS)
    data, x = path.read_bytes(), TENSORS["pooler.dense.weight"].tobytes()
    assert data.count(x) == 1
    path.write_bytes(data.replace(x, x[::-1]))
    assert refusal(folder).startswith(f"{path}: not a readable PyTorch file (Bad CRC-32")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("a", "b")
    assert complaint(tmp_path / "x.bin").startswith("not a readable PyTorch file (")


LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"\x80\x02M\xe9\x03."


def test_a_legacy_file(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(LEGACY)
    assert complaint(path).startswith("expected a zip archive, found the format of PyTorch before 1.6; ")


def test_a_legacy_file_of_pytorch(torch, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    assert complaint(tmp_path / "x.bin").startswith("expected a zip archive, found the format of PyTorch before 1.6; ")


# Malicious files

REFUSED = "expected tensors, found a pickle that asks for {}; no code in it was run; "


def test_a_pickle_with_code_in_it(folder):
    trace = folder / "was here"
    path = write(folder / "pytorch_model.bin", pickle.dumps(Call(os.system, f"touch '{trace}'")), {})
    system = f"{os.system.__module__}.system"
    assert refusal(folder).startswith(f"{path}: {REFUSED.format(repr(system))}")
    assert not trace.exists()
    pickle.loads(zipfile.ZipFile(path).read("archive/data.pkl"))  # the pickle does run code elsewhere
    assert trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.serialization", "_get_layout"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "namedtuple"),
        ("collections", "OrderedDict.__init__"),
        ("numpy", "FloatStorage"),
        ("torch", "QInt8Storage"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 4])
def test_every_other_name_is_refused(tmp_path, module, name, protocol):
    if protocol == 4:
        parts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
        state = b"\x80\x04" + b"".join(parts) + b"\x93."
    else:
        state = f"c{module}\n{name}\n.".encode()
    path = write(tmp_path / "x.bin", state, {})
    assert complaint(path).startswith(REFUSED.format(repr(f"{module}.{name}")))


def test_a_name_of_several_lines(tmp_path):
    state = b"\x80\x04\x8c\x02os\x8c\x03a\nb\x93."
    assert r"'os.a\nb'" in complaint(write(tmp_path / "x.bin", state, {}))


def test_the_known_functions_cannot_be_changed(tmp_path):
    """BUILD sets attributes on whatever is on the stack."""
    for allowed in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"):
        for state in (b"}X\x01\x00\x00\x00aK\x01s", b"N}X\x08\x00\x00\x00__call__K\x01s\x86"):
            path = write(tmp_path / "x.bin", b"\x80\x02" + allowed + state + b"b.", {})
            assert "found more; save" in complaint(path)
    read(write_state(tmp_path / "x.bin", TENSORS))


def test_a_dictionary_that_hides_its_own_items(tmp_path):
    call = b"ccollections\nOrderedDict\n)R"
    state = b"\x80\x02" + call + b"}X\x05\x00\x00\x00itemsK\x01sb."
    assert read(write(tmp_path / "x.bin", state, {})) == {}


@pytest.mark.parametrize(
    "pid",
    [
        b"K\x01",
        b"(X\x07\x00\x00\x00storageX\x0c\x00\x00\x00FloatStorageK\x01X\x03\x00\x00\x00cpuK\x01t",
        b"(X\x05\x00\x00\x00stateX\x0c\x00\x00\x00FloatStorageX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01t",
        b"(X\x07\x00\x00\x00storageX\x02\x00\x00\x00osX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01t",
    ],
)
def test_a_storage_of_an_unknown_kind(tmp_path, pid):
    path = write(tmp_path / "x.bin", b"\x80\x02" + pid + b"Q.", {})
    assert complaint(path).startswith("not a readable PyTorch file (")


def test_a_truncated_pickle(tmp_path):
    for state in (b"", b"\x80", b"\x80\x02}"):
        assert complaint(write(tmp_path / "x.bin", state, {})).startswith("not a readable PyTorch file (")
