"""Properties of checkpoints, on random architectures and tensors: what is written is read back bit for bit."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import MLM, NSP, write_tokenizer
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bertjax.models.config import BertConfig
from bertjax.pretrained import tensor_shapes
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.pretrained.formats import torch_file


@st.composite
def architectures(draw):
    heads = draw(st.integers(1, 4))
    return BertConfig(
        vocab_size=draw(st.integers(24, 40)),
        hidden_size=heads * draw(st.integers(1, 5)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 9)),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        max_position_embeddings=draw(st.integers(1, 20)),
        type_vocab_size=draw(st.integers(1, 3)),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-5, 0.1])),
    )


def bits(draw, shape):
    """A float32 array with random bits: subnormals, infinities, NaNs with payloads, both zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)


def head_shapes(config, draw):
    """Shapes of the MLM head, the NSP head or both; of a classifier; or of no head."""
    sizes = {12: config.hidden_size, 24: config.vocab_size, 2: 2}
    shapes = {}
    for head in (MLM, NSP):
        if draw(st.booleans()):
            shapes |= {name: tuple(sizes[n] for n in x.shape) for name, x in head.items()}
    if not shapes and draw(st.booleans()):
        labels = draw(st.integers(1, 4))
        shapes = {"classifier.weight": (labels, config.hidden_size), "classifier.bias": (labels,)}
    return shapes


@given(st.data())
@settings(max_examples=25, phases=[Phase.generate])  # a failure would take minutes to shrink
def test_convert_then_export_keeps_every_bit(data):
    config = data.draw(architectures())
    shapes = tensor_shapes(config)
    if not data.draw(st.booleans(), label="pooler"):
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("pooler.")}
    heads = head_shapes(config, data.draw)
    tensors = {name: bits(data.draw, shape) for name, shape in {**shapes, **heads}.items()}
    prefix = data.draw(st.sampled_from(["", "bert."]))
    with tempfile.TemporaryDirectory() as folder:
        a, b, c = (Path(folder) / name for name in "abc")
        write_tokenizer(a, config.vocab_size)
        (a / "config.json").write_text(json.dumps({"model_type": "bert"} | vars(config)))
        stored = {name if name in heads else prefix + name: x for name, x in tensors.items()}
        safetensors.numpy.save_file(stored, a / "model.safetensors")
        convert(a, b)
        export(b, c)
        found = safetensors.numpy.load_file(c / "model.safetensors")
        written = json.loads((c / "config.json").read_text())
    expected = {name if name in heads or not heads else f"bert.{name}": x for name, x in tensors.items()}
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (np.float32, x.shape), name
        assert found[name].tobytes() == x.tobytes(), name
    assert BertConfig.from_dict(written) == config


# PyTorch's files


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def any_view(torch, base, draw):
    """A view of a storage, contiguous or not, with no more elements than the storage has: others are refused."""
    x = base
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["reshape", "transpose", "slice", "index", "diagonal", "strided"]))
        if kind == "reshape" and x.is_contiguous():
            rows = draw(st.sampled_from([n for n in range(1, x.numel() + 1) if x.numel() % n == 0] or [1]))
            x = x.view(rows, x.numel() // rows)
        elif kind == "transpose" and x.dim() >= 2:
            x = x.transpose(0, -1)
        elif kind == "slice" and x.dim():
            start, step = draw(st.integers(0, 3)), draw(st.integers(1, 3))
            x = x[start::step]
        elif kind == "index" and x.dim() and x.shape[0]:
            x = x[draw(st.integers(0, x.shape[0] - 1))]
        elif kind == "diagonal" and x.dim() >= 2:
            x = x.diagonal()
        elif kind == "strided":
            n = x.untyped_storage().nbytes() // x.element_size()
            step = draw(st.integers(0, 2))
            x = torch.as_strided(x, (max(1, n // 4), 2), (step, 1), draw(st.integers(0, 1))) if n >= 4 else x
    return x


@given(st.data())
@settings(max_examples=150)
def test_what_pytorch_saves_reads_back(torch, data):
    integers = {"float64": np.int64, "float32": np.int32, "float16": np.int16, "bfloat16": np.int16}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bases = []
    for dtype in data.draw(st.lists(st.sampled_from(sorted(integers)), min_size=1, max_size=3)):
        raw = rng.bytes(data.draw(st.integers(0, 24)) * integers[dtype]().itemsize)
        bases.append(torch.from_numpy(np.frombuffer(raw, integers[dtype]).copy()).view(getattr(torch, dtype)))
    state = {}
    for i in range(data.draw(st.integers(1, 6))):
        x = any_view(torch, data.draw(st.sampled_from(bases)), data.draw)  # some share a storage
        state[f"t{i}"] = torch.nn.Parameter(x) if data.draw(st.booleans()) else x
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pytorch_model.bin"
        torch.save(state, path)
        found = {stored.name: (stored.shape, stored.read()) for stored in torch_file.read_torch(path)}
    assert found.keys() == state.keys()
    for name, x in state.items():
        shape, array = found[name]
        assert shape == array.shape == tuple(x.shape), name
        assert array.dtype.name == str(x.dtype).removeprefix("torch."), name
        theirs = x.detach().contiguous().view(getattr(torch, integers[array.dtype.name].__name__))
        np.testing.assert_array_equal(array.view(integers[array.dtype.name]), theirs.numpy(), strict=True)
