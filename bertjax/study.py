"""A study: methods × tasks × training-set sizes × seeds, each cell an ordinary run, and what they say together.

    python -m bertjax.study --config=configs/study.py --config.data_dir=FOLDER
    python -m bertjax.study --config=configs/study.py --report_only      # of what is finished

Finished cells are lines of `cells.jsonl` in the study's folder. A rerun goes on: with the next cell, and within one
that was cut off. On CPUs every core takes a cell of its own; elsewhere one cell has all devices. At the end comes the
report: README.md with its charts, and report.html.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from bertjax import cli
from bertjax.study_cells import plan, remaining, run_study

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, as configs/study.py; --config.KEY=VALUE.")
WORKDIR = flags.DEFINE_string("workdir", "runs/study", "Folder of the study.")
WORKERS = flags.DEFINE_integer("workers", None, "Cells at once; on CPUs as many as cores, elsewhere 1.", lower_bound=1)
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Write the report of what is finished, and run nothing.")
OUT = flags.DEFINE_string("out", None, "Folder of the report; the study's own if not given.")


def main() -> None:
    """Runs what is left of the study, and reports."""
    study, root = cli.recipe(CONFIG).to_dict(), Path(WORKDIR.value)
    cells = plan(study)
    if not REPORT_ONLY.value:
        done = len(cells) - len(remaining(study, root))
        with tqdm(total=len(cells), initial=done, unit="cell", file=sys.stderr, desc="study") as bar:
            for cell, line in run_study(study, root, WORKERS.value or _default_workers()):
                scores = ", ".join(f"{task} {values['score']:.4f}" for task, values in line["dev"].items())
                seconds = f"{line['timing']['seconds']:.0f} s"
                bar.write(f"{' '.join(map(str, cell.key))}: {scores}, {seconds}", file=sys.stderr)
                bar.update()
    from bertjax.study_report import write_report

    write_report(root, Path(OUT.value or root))


def _default_workers() -> int:
    import jax

    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
