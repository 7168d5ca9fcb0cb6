"""Runs a study: methods × tasks × training-set sizes × seeds, each trial an ordinary run; then writes a report.

    python -m bertjax.study --config=configs/study.py --config.data_dir=FOLDER
    python -m bertjax.study --config=configs/study.py --report_only      # report what is finished

Each finished trial is a line of `cells.jsonl` in the study's folder. The same command resumes a study, within a trial
that was cut off too. A trial that fails is reported, and a rerun tries it again. On CPUs each core runs its own trial;
elsewhere one trial uses all devices. The report is README.md with charts, and report.html.
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
from bertjax.study.baselines import measure_baselines, read_baselines
from bertjax.study.plan import Trial, plan_trials
from bertjax.study.pool import run_jobs
from bertjax.study.results import add_result, read_results, trial_key
from bertjax.study.trial import run_trial

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe like configs/study.py; --config.KEY=VALUE changes it.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study (default: runs/RECIPE).")
WORKERS = flags.DEFINE_integer(
    "workers", None, "Trials at once (default: the number of cores on CPUs, 1 elsewhere).", lower_bound=1
)
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Only write the report of what is finished.")
OUT = flags.DEFINE_string("out", None, "Folder of the report (default: the study's folder).")


def main() -> None:
    """Runs the unfinished trials and writes the report."""
    study = cli.read_recipe(CONFIG).to_dict()
    trials, root = plan_trials(study), user_path(WORKDIR.value or cli.default_workdir()).resolve()
    failures = []
    if not REPORT_ONLY.value:
        with lock_folder(root):
            failures = _run_unfinished(trials, root) + measure_baselines(trials, root)
    lines = read_results(root, trials)
    if lines or not failures:
        from bertjax.study.report import write_report

        out = user_path(OUT.value or root)
        write_report(lines, root, out, baselines=read_baselines(root, lines), notes=study.get("notes", ()))
    if failures:
        summary = f"{len(failures)} of {len(trials)} trials failed; the same command tries them again:"
        raise UserError(summary, *"\n".join(failures).split("\n"))


def _run_unfinished(trials: Sequence[Trial], root: Path) -> list[str]:
    """Runs the trials without results; returns a message for each that failed."""
    finished, failures = {trial_key(line) for line in read_results(root, trials)}, []
    todo = [trial for trial in trials if trial.key not in finished]
    with tqdm(total=len(trials), initial=len(finished), unit="trial", file=sys.stderr, desc="study") as bar:
        run = functools.partial(run_trial, root=root)
        for trial, line in run_jobs(run, todo, WORKERS.value or _default_workers()):
            if isinstance(line, UserError):
                message = f"{trial.name}: {line}"
                failures.append(message)
            else:
                add_result(root, line)
                scores = ", ".join(f"{task} {values['score']:.4f}" for task, values in line["dev"].items())
                message = f"{trial.name}: {scores}, {line['timing']['seconds']:.0f} s"
            bar.write(message, file=sys.stderr)
            bar.update()
    return failures


def _default_workers() -> int:
    # In a subprocess: the process that asks JAX for its devices occupies them, and the trials need them.
    code = "import jax; print(jax.default_backend())"
    # Its own session keeps a terminal's Ctrl-C from it.
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    if done.stdout.strip() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
