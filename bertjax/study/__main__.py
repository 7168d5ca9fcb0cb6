"""A study: methods × tasks × training-set sizes × seeds, each cell an ordinary run, and what they say together.

    python -m bertjax.study --config=configs/study.py --config.data_dir=FOLDER
    python -m bertjax.study --config=configs/study.py --report_only      # of what is finished

Finished cells are lines of `cells.jsonl` in the study's folder. A rerun goes on: with the next cell, and within one
that was cut off. A cell that fails is told, and tried again by a rerun. On CPUs every core takes a cell of its own;
elsewhere one cell has all devices. At the end comes the report: README.md with its charts, and report.html.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from bertjax import cli
from bertjax.errors import UserError
from bertjax.files.paths import user_path
from bertjax.runs.lock import lock_folder
from bertjax.study.baselines import add_baselines, read_baselines
from bertjax.study.plan import Trial, plan_trials, trial_name
from bertjax.study.pool import run_jobs
from bertjax.study.results import add_result, key_of, read_results
from bertjax.study.trial import run_trial

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, as configs/study.py; --config.KEY=VALUE.")


WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study; runs/RECIPE if not given.")


WORKERS = flags.DEFINE_integer("workers", None, "Cells at once; on CPUs as many as cores, elsewhere 1.", lower_bound=1)


REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Write the report of what is finished, and run nothing.")


OUT = flags.DEFINE_string("out", None, "Folder of the report; the study's own if not given.")


def main() -> None:
    """Runs what is left of the study, and reports."""
    study = cli.recipe(CONFIG).to_dict()
    cells, root = plan_trials(study), user_path(WORKDIR.value or cli.default_workdir()).resolve()
    failed = []
    if not REPORT_ONLY.value:
        with lock_folder(root):
            failed = _run(cells, root) + add_baselines(cells, root)
    lines = read_results(root, cells)
    if lines or not failed:
        from bertjax.study.report import write_report

        out = user_path(OUT.value or root)
        write_report(lines, root, out, baselines=read_baselines(root, lines), notes=study.get("notes", ()))
    if failed:
        told = f"{len(failed)} of {len(cells)} cells failed; the same command tries them again:"
        raise UserError(told, *"\n".join(failed).split("\n"))


def _run(cells: Sequence[Trial], root: Path) -> list[str]:
    """Runs the cells that have no results yet; returns what is to be told of those that failed."""
    done, failed = {key_of(line) for line in read_results(root, cells)}, []
    todo = [cell for cell in cells if cell.key not in done]
    with tqdm(total=len(cells), initial=len(done), unit="cell", file=sys.stderr, desc="study") as bar:
        run = functools.partial(run_trial, root=root)
        for cell, line in run_jobs(run, todo, WORKERS.value or _default_workers()):
            if isinstance(line, UserError):
                told = f"{trial_name(cell)}: {line}"
                failed.append(told)
            else:
                add_result(root, line)
                scores = ", ".join(f"{task} {values['score']:.4f}" for task, values in line["dev"].items())
                told = f"{trial_name(cell)}: {scores}, {line['timing']['seconds']:.0f} s"
            bar.write(told, file=sys.stderr)
            bar.update()
    return failed


def _default_workers() -> int:
    # Asked elsewhere: who asks JAX for its devices holds them, and the cells need them.
    code = "import jax; print(jax.default_backend())"
    # In a session of its own, which a terminal's Ctrl-C does not reach.
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    if done.stdout.strip() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
