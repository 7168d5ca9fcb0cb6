"""The compilation cache is used across processes, and only in a folder that nobody else can write to."""

import os
import subprocess
import sys

import jax
import pytest

from bertjax.compilation import enable_compilation_cache

PROGRAM = """
import jax, jax.numpy as jnp
from bertjax.compilation import enable_compilation_cache

enable_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(any(name.endswith("compilation_cache/cache_hits") for name in hits))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache folder, with JAX's own cache folder unset."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    previous = {
        name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    }
    min_seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "compiled"
    for name, value in previous.items():
        jax.config.update(name, value)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)


def test_a_second_process_reads_the_cache_and_incomplete_entries_are_replaced(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"BERTJAX_CACHE": str(tmp_path)}

    def hits():
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.strip()

    assert (hits(), hits()) == ("False", "True")
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700
    # A process killed while it wrote an entry, or before it wrote the time of last use.
    for entry in (tmp_path / "compiled").glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[:100])
        entry.with_name(entry.name.removesuffix("-cache") + "-atime").write_bytes(b"")
    assert (hits(), hits()) == ("False", "True")
    for last_use in (tmp_path / "compiled").glob("*-atime"):
        last_use.unlink()
    assert (hits(), hits()) == ("False", "True")


def test_jax_s_own_cache_folder_takes_precedence(folder, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not folder.exists()


@pytest.mark.parametrize("case", ["writable by others", "a link", "a file", "another's"])
def test_an_unsafe_folder_is_not_used(folder, tmp_path, case, monkeypatch, capsys):
    if case == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif case == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777 if case == "writable by others" else 0o700)
        if case == "another's":
            monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder}")
    assert "compiled steps are not cached" in line
