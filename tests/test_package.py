"""The package imports its public names on first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import bertjax

ROOT = Path(__file__).parents[1]


def test_public_names_can_be_imported():
    for name in bertjax.__all__:
        assert getattr(bertjax, name).__name__.endswith(name)
    assert {*bertjax.__all__} <= {*dir(bertjax)}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bertjax' has no attribute 'decode'"):
        bertjax.decode  # noqa: B018


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
