"""Evaluates a finished run: `python eval.py --workdir=runs/sst_smart --split=dev`."""

from pathlib import Path

from absl import flags

from bertjax import cli
from bertjax.evaluation import evaluate

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
SPLIT = flags.DEFINE_enum("split", "dev", ["train", "dev", "test"], "Split to evaluate on.")
CHECKPOINT = flags.DEFINE_enum("checkpoint", "final", ["final", "best"], "Which of the run's checkpoints.")


if __name__ == "__main__":
    cli.run(lambda: evaluate(Path(WORKDIR.value), SPLIT.value, CHECKPOINT.value))
