"""Every test runs on four CPU devices, with strict promotion, and no network."""

import atexit
import dataclasses
import gc
import json
import os
import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

JAXLIB = tuple(map(int, version("jaxlib").split(".")[:2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        # Tests compile far longer than they run: these three cut compilation to 35%.
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1" if JAXLIB < (0, 12) else "",
        # XLA ends the process over a flag that it no longer knows.
        "--xla_cpu_use_fusion_emitters=false" if JAXLIB < (0, 11) else "",
    ]
)

# The same steps are compiled by several tests, by all workers and by what they start, which inherit the environment.
if "BERTJAX_TESTS_COMPILED" not in os.environ:
    os.environ["BERTJAX_TESTS_COMPILED"] = tempfile.mkdtemp(prefix="bertjax-tests-")
    atexit.register(shutil.rmtree, os.environ["BERTJAX_TESTS_COMPILED"])
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["BERTJAX_TESTS_COMPILED"]
# jaxlib 0.12 was seen to crash while it serialised an executable, after hundreds of tests: there nothing is stored.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1" if JAXLIB < (0, 12) else "1e9"

import hypothesis
import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from helpers import FILLER, TINY, WORDS, Seen, write_sst, write_sts

from bertjax.config import RunConfig
from bertjax.pretrained import tensor_shapes
from bertjax.training import finetuning

MOST_MAPS = 25_000
# JAX keeps many objects alive. With Python's own thresholds, collections take a twentieth of all time.
gc.set_threshold(50_000, 20, 20)
# A shell's `&` has its commands ignore it; the tests of interrupts send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples at every run, however slow the machine.
hypothesis.settings.register_profile("bertjax", derandomize=True, deadline=None)
hypothesis.settings.load_profile("bertjax")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# More devices than cores: with steps in flight at once, their collectives can starve one another for threads.
jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Drops compiled programs between modules before their memory maps run out.

    A program holds ten maps or more. Linux allows a process 65,530, beyond which XLA's compiler ends it.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_config():
    return TINY


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A random BERT of one layer in Hugging Face layout, with a vocabulary of forty words."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    tensors = {
        name: (np.ones(shape) if "LayerNorm.weight" in name else rng.normal(size=shape) * 0.2).astype(np.float32)
        for name, shape in tensor_shapes(TINY).items()
    }
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | vars(TINY)))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(WORDS.values()).split(), *FILLER]
    vocabulary += [f"[unused{i}]" for i in range(TINY.vocab_size - len(vocabulary))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return folder


@pytest.fixture
def sst_folder(tmp_path, monkeypatch):
    """The files of `write_sst`, and a cache of their own."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    write_sst(folder)
    return folder


@pytest.fixture
def seen(monkeypatch):
    """A function that has a loop end with `Seen` at its first step, and returns what its step and AdamW are given."""

    def watch(module, step):
        found = {}

        def stop(*arguments, **options):
            found.update(options)
            if dataclasses.is_dataclass(arguments[0]):
                found.update(vars(arguments[0]))
            raise Seen

        def adamw(schedule, weight_decay):
            found.update(rates=[float(schedule(at)) for at in (0, 2, 6, 10)], weight_decay=weight_decay)
            return optax.identity()

        monkeypatch.setattr(module, step, stop)
        monkeypatch.setattr(module, "adamw", adamw)
        return found

    return watch


@pytest.fixture(scope="module")
def gold_run(tmp_path_factory, tiny_checkpoint):
    """A finished run of sst5 and sts: 23 and 9 rows of dev; of test, 6 without labels and 9. Copy it to change it."""
    folder = tmp_path_factory.mktemp("gold")
    write_sst(folder)
    sentences = (folder / "ids-sst-dev.csv").read_text().splitlines()[1:7]
    unlabelled = ["\tid\tsentence", *(line.rpartition("\t")[0] for line in sentences)]
    (folder / "ids-sst-test-student.csv").write_text("\n".join(unlabelled) + "\n")
    write_sts(folder)
    config = RunConfig(
        tasks=("sst5", "sts"),
        data_dir=str(folder),
        init_from=str(tiny_checkpoint),
        batch_size=8,
        max_length=16,
        max_steps=4,
        eval_every=2,
        learning_rate=0.01,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTJAX_CACHE", str(folder / "cache"))
        finetuning.train_and_evaluate(config, folder / "run")
        yield folder / "run"
