"""What README.md and the docstrings of bertjax.smart show is run as it stands."""

import doctest
import importlib
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

README = Path(__file__).parents[1] / "README.md"
SECTION = "## Use SMART in your own loop\n"


def python_blocks(section):
    text = README.read_text().split(section)[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lenient(make):
    """Lets an optax optimizer mix types, as its arithmetic does, while all code around it stays strict."""

    def made(*args):
        tx = make(*args)

        def update(*args):
            with jax.numpy_dtype_promotion("standard"):
                return tx.update(*args)

        return optax.GradientTransformation(tx.init, update)

    return made


def test_smart_in_your_own_loop_runs_as_printed(monkeypatch):
    monkeypatch.setattr(optax, "adamw", lenient(optax.adamw))
    namespace = {"__name__": "readme"}
    blocks = python_blocks(SECTION)
    assert len(blocks) == 3

    exec(compile(blocks[0], "README.md, block 1", "exec"), namespace)
    losses = np.array(namespace["losses"])
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    params, anchor = namespace["params"], namespace["anchor"]
    assert jax.tree.structure(anchor) == jax.tree.structure(params)
    for name, value in anchor.items():
        assert np.isfinite(value).all()
        assert not np.allclose(value, params[name])

    exec(compile(blocks[1], "README.md, block 2", "exec"), namespace)
    deltas, embeddings, mask = (np.asarray(namespace[name]) for name in ("deltas", "embeddings", "mask"))
    assert not deltas[~mask].any()
    for delta, embedding, real in zip(deltas, embeddings, mask, strict=True):  # "radius" is a share of the RMS
        assert np.linalg.norm(delta) == pytest.approx(0.02 * np.linalg.norm(embedding[real]), rel=1e-5)

    exec(compile(blocks[2], "README.md, block 3", "exec"), namespace)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(namespace["updates"]))


def test_presets_of_the_readme_are_those_there_are():
    presets = importlib.import_module("bertjax.smart").PRESETS
    rows = README.read_text().split("| preset | what it is |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE) == list(presets)


@pytest.mark.parametrize("name", ["adversary", "ascent", "settings", "transforms", "divergences"])
def test_doctests(name):
    module = importlib.import_module(f"bertjax.smart.{name}")
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes types
        found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted > 0 or name == "divergences"  # whose examples are the tests of its formulas
