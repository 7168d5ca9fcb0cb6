"""The package imports its public names on first use."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bertjax

ROOT = Path(__file__).parents[1]


def test_public_names_can_be_imported():
    for name in bertjax.__all__:
        assert getattr(bertjax, name).__name__.endswith(name)
    assert {*bertjax.__all__} <= {*dir(bertjax)}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bertjax' has no attribute 'decode'"):
        bertjax.decode  # noqa: B018


def requirements_of(*names):
    """The distributions that these need to be installed, themselves included."""
    found, queue = {}, list(names)
    while queue:
        distribution = importlib.metadata.distribution(queue.pop())
        if distribution.name in found:
            continue
        found[distribution.name] = distribution
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(requirement.name)
    return found.values()


def test_smart_needs_jax_and_optax_alone(tmp_path):
    # A folder with what jax and optax need and nothing else: `-S` leaves out all installed packages.
    for distribution in requirements_of("jax", "jaxlib", "optax"):
        for top in {Path(path).parts[0] for path in distribution.files if ".." not in Path(path).parts}:
            source = Path(distribution.locate_file(top))
            if source.exists() and not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(source)
    (tmp_path / "bertjax").symlink_to(ROOT / "bertjax")
    code = """
import importlib.util, sys, time
assert importlib.util.find_spec("flax") is None and importlib.util.find_spec("safetensors") is None
import jax, jax.numpy as jnp, optax
start = time.perf_counter()
from bertjax import smart
assert time.perf_counter() - start < 0.3
x, key = jnp.ones((2, 3, 4)), jax.random.key(0)
r_s = smart.smoothness(lambda x: x.sum(1), x, key, divergence=smart.symmetric_kl)
tx = optax.chain(smart.add_smart("bertjax_exact", num_steps=10), optax.sgd(0.1))
print(r_s.shape, type(tx.init({"w": x})[0]).__name__)
"""
    command = [sys.executable, "-S", "-W", "error", "-c", code]
    environment = {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu", "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(2,) SmartState", "")


def test_importing_smart_imports_neither_flax_nor_readers_of_checkpoints():
    code = """
import sys
import bertjax.smart
from bertjax import smart
assert bertjax.smart is smart
print(*sorted({"flax", "safetensors", "tokenizers", "bertjax.models.bert", "bertjax.pretrained"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
