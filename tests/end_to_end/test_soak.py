"""tools/soak.py on a small model."""

import pytest

from tools import soak


@pytest.fixture
def flags(tiny_checkpoint, sst_folder):
    changes = {"batch_size": 8, "max_length": 16, "max_steps": 60, "eval_every": 20, "checkpoint_every": 3}
    return [
        "--config=configs/sst_smart.py",
        *("--config.task=sst5", f"--config.data_dir={sst_folder}", f"--config.init_from={tiny_checkpoint}"),
        *(f"--config.{name}={value}" for name, value in changes.items()),
    ]


@pytest.mark.slow
def test_three_kills_leave_the_end_as_it_is(flags, tmp_path, capsys):
    assert all(soak.soak(flags, tmp_path, kills=3))
    assert capsys.readouterr().out.count("kill ") == 3
