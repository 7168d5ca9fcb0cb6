"""Feeds mangled files to every reader of user files; a reader must accept them or raise a `UserError`.

    python -m tools.fuzz --seconds=600

Prints the number of cases tried, refused and accepted for each target. Stops at the first failure and prints its file.
"""

import argparse
import contextlib
import io
import json
import pickle
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertjax.data import tsv
from bertjax.data.corpus import load_corpus
from bertjax.errors import UserError
from bertjax.pretrained.encoder_files import read_model_config
from bertjax.pretrained.formats import flax_file, safetensors_file, torch_file
from bertjax.pretrained.head_metadata import head_class_names
from bertjax.pretrained.tensors import shard_files
from bertjax.pretrained.tokenizer import load_tokenizer
from bertjax.runs.metrics_log import read_records
from bertjax.runs.run_result import read_result
from bertjax.runs.workdir import read_run_config
from bertjax.tasks import get_task
from bertjax.training import init_checkpoint

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
MAX_SECONDS = 5.0
"""For one case."""


def _torch_seed() -> bytes:
    """Returns a file as `torch.save` writes a state dict, pickled by hand because PyTorch is optional."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89}tR"
    state = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01" + tensor + b"s."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", state)
        archive.writestr("x/data/0", np.arange(6, dtype=np.float32).tobytes())
    return file.getvalue()


CONFIG = {
    **{"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 32, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
}
SCORES = {"accuracy": 0.5, "loss": 1.25}
RESULT = {
    "datasets": {"sst5": {"fingerprint": "f", "labels": "gold", "label_names": ["bad", "good"]}},
    "lineage": [{"init_from": "minilm-l6"}],
    "warnings": ["one"],
    "dev": {"sst5": {"final": SCORES, "best": SCORES | {"step": 3}}},
    "steps": 7,
}
ORIGIN = {"lineage": [{"init_from": "minilm-l6"}], "files": {"vocab.txt": "0f"}, "word_embeddings": "1e"}
RECORD = {"step": 10, "epoch": 0.5, "split": "train", "values": {"loss": 1.5}, "timing": {"seconds": 2.0}}
RUN = {"task": "sst5", "epochs": 3, "learning_rate": 1e-4, "smart": {"preset": "bertjax", "radius": 0.02}}
VOCABULARY = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "##s", "é", "映"])
TOKENIZER_CONFIG = {
    **{
        "do_lower_case": True,
        "cls_token": "[CLS]",
        "tokenizer_class": "BertTokenizer",
        "model_input_names": ["input_ids"],
    },
    **{"additional_special_tokens": ["[E1]"], "added_tokens_decoder": {"10": {"content": "[E1]", "lstrip": False}}},
}
TABLE = '\tid\tsentence\tsentiment\n0\ta\tthe film\t3\n1\tb\tits "story"\t0.0\r\n2\tc\té映\t4\n'
CSV = "".join(["id,article\n", *(f'{i},"A film, number {i}. It was good!"\n' for i in range(60))])


def _read_table(path: Path) -> None:
    rows, _ = tsv.read_course_file(
        path, texts=("sentence",), label="sentiment", parse_label=tsv.class_parser(5), on_bad_row="error"
    )
    assert all(row.label in range(5) and row.texts[0].strip() for row in rows)


def _read_own_table(path: Path) -> None:
    tsv.read_table(path, schema=get_task("sst5").schema, id_column="id", on_bad_row="skip")


def _read_tensors(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        for stored in read(path):
            if np.prod(stored.shape, dtype=np.float64) < 1e6:  # `load` compares shapes before it reads
                assert stored.float32().shape == stored.shape

    return run


def _in_folder(name: str, read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        (path.parent / name).write_bytes(path.read_bytes())
        read(path.parent)

    return run


def _beside_vocabulary(name: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        (path.parent / "vocab.txt").write_text(VOCABULARY)
        (path.parent / name).write_bytes(path.read_bytes())
        load_tokenizer(path.parent).encode("The films [E1]")

    return run


def _read_vocabulary(path: Path) -> None:
    (path.parent / "tokenizer_config.json").unlink(missing_ok=True)
    (path.parent / "vocab.txt").write_bytes(path.read_bytes())
    load_tokenizer(path.parent).encode("The films")


def _read_tokenizer_json(path: Path) -> None:
    for name in ("vocab.txt", "tokenizer_config.json"):
        (path.parent / name).unlink(missing_ok=True)
    (path.parent / "tokenizer.json").write_bytes(path.read_bytes())
    load_tokenizer(path.parent)


def _tokenizer_seed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text(VOCABULARY)
        return load_tokenizer(Path(folder)).to_str().encode()


TARGETS: dict[str, tuple[Callable[[Path], None], bytes]] = {
    "course file": (_read_table, TABLE.encode()),
    "own table": (_read_own_table, TABLE.encode()),
    "corpus": (lambda path: load_corpus(str(path.rename(path.with_suffix(".csv")))) and None, CSV.encode()),
    "safetensors": (_read_tensors(safetensors_file.read_safetensors), safetensors.numpy.save(TENSORS)),
    "pytorch_model.bin": (_read_tensors(torch_file.read_torch), _torch_seed()),
    "flax_model.msgpack": (
        _read_tensors(flax_file.read_flax),
        flax.serialization.msgpack_serialize({"bert": {"a": {"kernel": TENSORS["a.weight"]}, "b": TENSORS["b"]}}),
    ),
    "config.json": (_in_folder("config.json", read_model_config), json.dumps(CONFIG).encode()),
    "index.json": (lambda path: list(shard_files(path)) and None, json.dumps({"weight_map": {"a": "x.bin"}}).encode()),
    "vocab.txt": (_read_vocabulary, VOCABULARY.encode()),
    "tokenizer_config.json": (_beside_vocabulary("tokenizer_config.json"), json.dumps(TOKENIZER_CONFIG).encode()),
    "special_tokens_map.json": (
        _beside_vocabulary("special_tokens_map.json"),
        json.dumps({"cls_token": "[CLS]", "additional_special_tokens": ["[E1]"]}).encode(),
    ),
    "added_tokens.json": (_beside_vocabulary("added_tokens.json"), json.dumps({"[E1]": 10, "covid": 11}).encode()),
    "tokenizer.json": (_read_tokenizer_json, _tokenizer_seed()),
    "config of a run": (_in_folder("config.json", read_run_config), json.dumps(RUN).encode()),
    "origin of a run": (
        _in_folder("origin.json", partial(init_checkpoint.keep_init_checkpoint, origin=ORIGIN)),
        json.dumps(ORIGIN).encode(),
    ),
    "log of a run": (_in_folder("metrics.jsonl", read_records), f"{json.dumps(RECORD)}\n".encode() * 2),
    "labels.json": (_in_folder("labels.json", head_class_names), json.dumps({"head_sst5": ["bad", "good"]}).encode()),
    "result of a run": (_in_folder("result.json", read_result), json.dumps(RESULT).encode()),
}

_BITS = st.integers(0, 7).map(lambda bit: 1 << bit)
_NUMBERS = st.sampled_from([0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | _NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mangled(draw: Any, seed: bytes) -> bytes:
    """A valid file with bytes flipped, cut, inserted or repeated, or numbers made huge; sometimes random bytes."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "byte", "cut", "insert", "repeat", "number", "text", "end"]))
        if kind == "flip" and data:
            data[at] ^= draw(_BITS)
        elif kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 60))] * draw(st.integers(1, 3))
        elif kind == "number":
            size = draw(st.sampled_from([1, 2, 4, 8]))
            data[at : at + size] = struct.pack("<Q", draw(_NUMBERS))[:size]
        elif kind == "text":
            data[at : at + draw(st.integers(0, 8))] = draw(_JSON.map(lambda x: json.dumps(x).encode()))
        else:
            del data[at:]
    return bytes(data)


@st.composite
def random_headers(draw: Any) -> bytes:
    """A safetensors file with an arbitrary header."""
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "U8", "F8_E4M3", "X"]) | _JSON,
            "shape": st.lists(st.integers(0, 8) | _NUMBERS, max_size=3) | _JSON,
            "data_offsets": st.lists(st.integers(0, 40) | _NUMBERS, min_size=2, max_size=2) | _JSON,
        }
    )
    header = draw(st.dictionaries(st.text(max_size=8), entry | _JSON, max_size=3))
    text = json.dumps(header).encode()
    size = draw(st.just(len(text)) | _NUMBERS)
    return struct.pack("<Q", size) + text + draw(st.binary(max_size=40))


@st.composite
def pickles(draw: Any) -> bytes:
    """A zip archive like PyTorch's with a pickle of random opcodes, most of them valid."""
    opcodes = [getattr(pickle, name) for name in pickle.__all__ if isinstance(getattr(pickle, name), bytes)]
    words = [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"]
    words += [b"cos\nsystem\n", b"X\x01\x00\x00\x00a", b"X\xff\xff\xff\xff", b"r\xff\xff\xff\x7f"]
    words += [b"K\x06", b"q\x00", b"h\x00"]
    words += [b"(", b"}", b")", b"t", b"R", b"s", b"u", b"b", b"Q", b"\x85", b"\x86", b"\x87", b"N", b"]", b"a", b"e"]
    body = draw(st.lists(st.sampled_from(words) | st.sampled_from(opcodes), max_size=40).map(b"".join))
    file = io.BytesIO()
    compression = draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("x/data/0", draw(st.binary(max_size=24)))
    return file.getvalue()


def files(target: str) -> st.SearchStrategy[bytes]:
    """Returns a strategy for the files of a target."""
    mangled_files = mangled(TARGETS[target][1])
    more = {"safetensors": random_headers(), "pytorch_model.bin": pickles()}
    if target.endswith(".json") or target == "config of a run":
        seed = json.loads(TARGETS[target][1])
        changed = st.dictionaries(st.sampled_from(sorted(seed)), _JSON, max_size=2)
        return mangled_files | changed.map(lambda changes: json.dumps({**seed, **changes}).encode())
    return mangled_files | more[target] if target in more else mangled_files


class Failure(Exception):
    """A reader crashed, hung, or raised anything but a `UserError`."""


def try_one(target: str, data: bytes, folder: Path) -> bool:
    """Returns whether the reader accepts a file (False: it raises a UserError); raises Failure for anything else."""
    path = folder / "file"
    path.write_bytes(data)
    start = time.monotonic()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # thousands of warnings
            TARGETS[target][0](path)
        is_accepted = True
    except UserError as error:
        if not str(error):
            raise Failure(f"{target}: an error without a message; file: {data!r}") from None
        is_accepted = False
    except BaseException as error:
        raise Failure(f"{target}: {type(error).__name__}: {error}; file: {data!r}") from error
    if time.monotonic() - start > MAX_SECONDS:
        raise Failure(f"{target}: took {time.monotonic() - start:.1f} s; file: {data!r}")
    return is_accepted


def fuzz(target: str, cases: int, **options: Any) -> dict[bool, int]:
    """Counts accepted (True) and refused (False) files; raises Failure for anything else."""
    counts = {True: 0, False: 0}
    with tempfile.TemporaryDirectory() as folder:

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
        @given(files(target))
        def run(data: bytes) -> None:
            counts[try_one(target, data, Path(folder))] += 1

        run()
    return counts


def main() -> None:
    """Fuzzes all targets in turn until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    memory = 4 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))  # a reader that asks for more fails
    total = {target: {True: 0, False: 0} for target in TARGETS}
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        for target in TARGETS:
            try:
                counts = fuzz(target, 200)
            except Failure as failure:
                print(failure)
                sys.exit(1)
            for is_accepted, count in counts.items():
                total[target][is_accepted] += count
    print(f"{'target':24}{'cases':>10}{'refused':>10}{'accepted':>10}")
    for target, counts in total.items():
        print(f"{target:24}{sum(counts.values()):10,}{counts[False]:10,}{counts[True]:10,}")
    print(f"{sum(sum(counts.values()) for counts in total.values()):,} cases, no failure")


if __name__ == "__main__":
    main()
