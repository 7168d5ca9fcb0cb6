"""What is compiled is kept in a folder of one's own, and in no other."""

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
    """Where compiled steps go, while JAX has none of its own."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    own = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")}
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "compiled"
    for name, value in own.items():
        jax.config.update(name, value)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def test_a_second_process_compiles_nothing(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"BERTJAX_CACHE": str(tmp_path)}

    def hits():
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.strip()

    assert (hits(), hits()) == ("False", "True")
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700
    # Cut off after an entry was begun, and after it was written but for the time of its use.
    for entry in (tmp_path / "compiled").glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[:100])
        entry.with_name(entry.name.removesuffix("-cache") + "-atime").write_bytes(b"")
    assert (hits(), hits()) == ("False", "True")
    for used in (tmp_path / "compiled").glob("*-atime"):
        used.unlink()
    assert (hits(), hits()) == ("False", "True")


def test_a_folder_that_the_user_chose_for_jax_stays(folder, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not folder.exists()


@pytest.mark.parametrize("case", ["writable by others", "a link", "a file", "another's"])
def test_a_folder_that_others_can_write_to_is_not_used(folder, tmp_path, case, monkeypatch, capsys):
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
