"""The accelerator benchmark, tiny, on a CPU: what it imports, how it ends, and that its checks can fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import accelerator_checks as checks
from benchmarks.accelerator_updates import CONFIGS, random_params

ROOT = Path(__file__).parents[2]
FOREIGN = {
    *(
        "absl",
        "array_record",
        "filelock",
        "grain",
        "huggingface_hub",
        "matplotlib",
        "ml_collections",
        "msgpack",
        "orbax",
    ),
    *(
        "safetensors",
        "scipy",
        "tensorboardX",
        "tensorflow",
        "tensorflow_datasets",
        "tensorstore",
        "tokenizers",
        "torch",
    ),
    *("tqdm", "transformers"),
}
TINY = CONFIGS["tiny"]


def test_it_imports_nothing_beyond_what_jax_flax_and_optax_do():
    code = "import sys, jax, flax.linen, flax.struct, optax, jax.experimental.multihost_utils; {}; print(*sys.modules)"
    own, ours = (
        subprocess.run([sys.executable, "-c", code.format(more)], cwd=ROOT, capture_output=True, text=True, check=True)
        for more in ("pass", "import benchmarks.accelerator, benchmarks.accelerator_plan")
    )
    added = {*ours.stdout.split()} - {*own.stdout.split()}
    assert "bertjax.training.finetuning_step" in added
    assert not {name.partition(".")[0] for name in added} & FOREIGN
    # These read data and checkpoints, or draw.
    assert not {
        name
        for name in added
        if name.startswith(("bertjax.pretrained", "bertjax.evaluation", "bertjax.training.finetuning."))
    }


def trial(path, seconds, *more):
    """Runs the tiny trial, reading the results file all the while; its last content, and the seconds it took."""
    command = f"-W error -m benchmarks.accelerator --models tiny --batch=4 --length=16 --rounds=1 --seconds={seconds}"
    environment = os.environ | {"JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *command.split(), *more, "--out", path], cwd=ROOT, env=environment)
    while process.poll() is None:
        if path.exists():
            rows(json.loads(path.read_text()))
        time.sleep(0.02)
    assert process.returncode == 0
    return json.loads(path.read_text()), time.monotonic() - start


def rows(report):
    """Names of the rows by the list that they are in; each is in one."""
    found = {name: [x["row"] for x in of] for name, of in report.items() if isinstance(of, list) and name != "goals"}
    names = [row for of in found.values() for row in of]
    assert len({*names}) == len(names) == (1 if names == ["all rows"] else 17)
    return found


@pytest.mark.slow
def test_a_trial_ends_within_its_seconds_and_lists_every_row(tmp_path):
    report, seconds = trial(tmp_path / "out.json", 12)
    assert seconds < 12
    assert rows(report)["left_out"]
    assert all(entry["reason"] for entry in report["left_out"])
    assert {goal["met"] for goal in report["goals"]} >= {None}


def test_without_devices_the_file_says_so(tmp_path):
    code = "import sys; sys.modules['jax'] = None; from benchmarks import accelerator; accelerator.main()"
    command = [sys.executable, "-c", code, "--seconds=60", "--out", tmp_path / "out.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr
    assert rows(json.loads((tmp_path / "out.json").read_text()))["left_out"] == ["all rows"]


@pytest.mark.slow
def test_a_whole_trial(tmp_path):
    report, _ = trial(tmp_path / "out.json", 400, "--skip", "PyTorch")
    found = rows(report)
    assert found["left_out"] == ["tiny, plain, PyTorch", "tiny, paper, PyTorch"]
    assert report["machine"]["platform"] == "cpu"
    # JAX's own attention is not clean under strict promotion in every version.
    assert found["failed"] in (["attention, tiny, cudnn"], ["attention, tiny, xla", "attention, tiny, cudnn"])
    assert [entry["passed"] for entry in report["checks"]] == [True] * 5
    assert [(entry["name"], entry["form"]) for entry in report["rows"]] == [
        ("plain", "jit"),
        ("smart cheap", "jit"),
        ("smart exact", "jit"),
        ("plain", "pmap"),
    ]
    assert all(entry["step_seconds"] > 0 for entry in report["rows"])
    assert all("interpolated" in entry["estimate"] for entry in report["epochs"])


def test_a_wrong_direction_fails(monkeypatch):
    def perturbation(logits_fn, embeddings, key, **_):
        # In bfloat16 another one.
        return jax.random.normal(jax.random.fold_in(key, embeddings.dtype.itemsize), embeddings.shape)

    monkeypatch.setattr(checks.smart, "perturbation", perturbation)
    check = checks.direction(TINY, random_params(TINY), 16)
    assert check["value"] < 0.3
    assert not check["passed"]


class FakeUpdate:
    """Fifty updates' scalars, of which one may be bad."""

    def __init__(self, bad=None, skipped=0.0, recompiles=False):
        self.count, self.bad, self.skipped, self.recompiles = 0, bad, skipped, recompiles
        self.step = type("Step", (), {"compiled": {"shape": None}})

    def __call__(self):
        self.count += 1
        if self.count == 1 or (self.count == 30 and self.recompiles):
            jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 0.1)
        here = self.count == 20
        loss = self.bad if here and self.bad is not None else 1.0
        return {"loss": np.float32(loss), "skipped": np.float32(self.skipped if here else 0)}


@pytest.mark.parametrize(
    ("update", "passed", "value", "recompiled"),
    [
        (FakeUpdate(), True, 50, 0),
        (FakeUpdate(bad=np.nan), False, 49, 0),
        (FakeUpdate(skipped=1), False, 49, 0),
        (FakeUpdate(recompiles=True), False, 50, 1),
    ],
)
def test_updates_must_be_finite_and_compiled_once(update, passed, value, recompiled):
    check = checks.stays_finite(update)
    assert (check["passed"], check["value"], check["recompiled"]) == (passed, value, recompiled)


@pytest.mark.parametrize(("off", "moves", "passed"), [(0, 1e-3, True), (2e-5, 1e-3, False), (0, 0, False)])
def test_jit_and_pmap_must_agree_on_parameters_that_moved(monkeypatch, off, moves, passed):
    class Update:
        def __init__(self, config, params, batch, name, form, dtype):
            self.params = {"kernel": params["kernel"] + moves + (off if form == "pmap" else 0)}

        def __call__(self):
            pass

    monkeypatch.setattr(checks, "Update", Update)
    assert checks.jit_against_pmap(TINY, {"kernel": np.ones(3)}, 16)["passed"] == passed
