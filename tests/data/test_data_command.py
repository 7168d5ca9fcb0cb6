"""The command that checks data: all problems on stderr, or row counts on stdout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK, TRAIN = ["-m", "bertjax.data"], [str(ROOT / "train.py")]


def run(program, recipe, folder, *arguments):
    return subprocess.run(
        [sys.executable, *program, f"--config={ROOT / 'configs' / recipe}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BERTJAX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("program", [CHECK, TRAIN], ids=["check", "train"])
def test_all_problems(program, sst_folder):
    with (sst_folder / "ids-sst-train.csv").open("ab") as file:
        file.write(b"61\ttrain61\tthe film\t7\n62\ttrain62\tcaf\xe9\t3\n")
    before = sorted(sst_folder.iterdir())
    done = run(program, "gold.py:sst5", sst_folder, f"--config.data_dir={sst_folder}")
    assert (done.returncode, done.stdout) == (2, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: 2 problems in the data; fix them all, or pass --config.on_bad_row=skip ")
    assert rest == [
        f"{sst_folder / 'ids-sst-train.csv'}:63: sentiment: expected a whole number from 0 to 4, found '7'",
        f"{sst_folder / 'ids-sst-train.csv'}:64: expected UTF-8, found byte 0xe9",
    ]
    assert sorted(path for path in sst_folder.iterdir() if path.name != "cache") == before


def test_no_problem(sst_folder):
    header, first = (sst_folder / "ids-sst-dev.csv").read_text().splitlines()[:2]
    (sst_folder / "ids-sst-test.csv").write_text(f"{header}\n{first}\n")
    with (sst_folder / "ids-sst-train.csv").open("a") as file:
        file.write(first)
    done = run(CHECK, "gold.py:sst5", sst_folder, f"--config.data_dir={sst_folder}")
    assert (done.returncode, done.stdout) == (0, "sst5: 62 of train, 23 of dev, 1 of test\n")
    dev, test = done.stderr.splitlines()
    assert dev.startswith("warning: sst5: 1 of 62 rows of train have texts that are also in dev")
    assert test.startswith("warning: sst5: 1 of 62 rows of train have texts that are also in test")


def test_a_corpus(tmp_path, tiny_checkpoint):
    (tmp_path / "a.txt").write_text("\n\n".join(f"document {i}\nhas an end" for i in range(60)))
    done = run(CHECK, "pretrain_editorials.py", tmp_path, f"--config.corpus={tmp_path}")
    name, splits = done.stdout.split(": ")
    train, dev = (int(part.split()[0]) for part in splits.split(", "))
    assert (done.returncode, name, train + dev) == (0, tmp_path.name, 60)

    # Documents of one sentence make no pairs; a family without next-sentence prediction needs none.
    (tmp_path / "a.txt").write_text("\n\n".join(f"document {i}" for i in range(60)))
    flags = f"--config.corpus={tmp_path}", f"--config.init_from={tmp_path / 'checkpoint'}"
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    done = run(CHECK, "pretrain_editorials.py", tmp_path, *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "one of them of 2 sentences or more" in done.stderr

    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))
    done = run(CHECK, "pretrain_editorials.py", tmp_path, *flags)
    assert (done.returncode, done.stderr, done.stdout.count("of train")) == (0, "", 1)
