"""Evaluates a finished run: `python eval.py --workdir=runs/sst_smart --split=dev`."""

from pathlib import Path

from absl import flags

from bertjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
SPLIT = flags.DEFINE_enum("split", "dev", ["train", "dev", "test"], "Split to evaluate on.")
CHECKPOINT = flags.DEFINE_enum("checkpoint", "final", ["final", "best"], "Which of the run's checkpoints.")


def main() -> None:
    """Evaluates the run's checkpoint on the split."""
    # Only once the flags are right: it takes seconds.
    from bertjax.evaluation import evaluate

    evaluate(Path(WORKDIR.value), SPLIT.value, CHECKPOINT.value)


if __name__ == "__main__":
    cli.run(main)
