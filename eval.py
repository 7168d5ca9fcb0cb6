"""Evaluates a finished run, or predicts with it for lines of text.

`python eval.py --workdir=runs/sst_smart --split=dev`, or
`python eval.py --workdir=runs/sst_smart --input=FILE > predictions.tsv`, or
`python eval.py --workdir=runs/sst_smart --input=FILE --explain=PAGE.html --beside=runs/sst`.
"""

import sys

from absl import flags

from bertjax import cli
from bertjax.errors import UserError
from bertjax.files.paths import user_path

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "final", ["final", "best"], "Which of the run's checkpoints.")
SPLIT = flags.DEFINE_enum("split", "dev", ["train", "dev", "test"], "Split to evaluate on.")
FORMAT = flags.DEFINE_enum("format", "table", ["table", "course"], "Of the predictions: bertjax's own, or CS224N's.")
RADIUS = flags.DEFINE_float("radius", 0.02, "Relative radius at which smoothness is measured; 0 leaves it out.")
EXPLAIN = flags.DEFINE_string("explain", None, "With --input, HTML page of which tokens the adversary moves.")
BESIDE = flags.DEFINE_string("beside", None, "With --explain, folder of a second run, say one without SMART.")
PLACES = {
    name: flags.DEFINE_string(f"config.{name}", None, f"Where the run's {name} is now, if it was moved.")
    for name in ("data_dir", "data_file", "dev_file")
}
INPUT = flags.DEFINE_string("input", None, "File of raw lines to predict for, or - for stdin; in place of a split.")
TASK = flags.DEFINE_string("task", None, "With --input, which task of a run of several.")


def main() -> None:
    """Evaluates the run's checkpoint on the split, or predicts for lines."""
    if INPUT.value is None:
        _refuse("it goes with --input, found none", TASK, EXPLAIN)
    else:
        _refuse("it does not go with --input; drop one of the two", SPLIT, FORMAT, *PLACES.values())
    if EXPLAIN.value is None:
        _refuse("it goes with --explain, found none", BESIDE)
        if INPUT.value is not None:
            _refuse("it does not go with --input but with --explain; drop it", RADIUS)
    # Only once the flags are right: it takes seconds.
    from bertjax.compilation import keep_compiled
    from bertjax.evaluation.evaluator import evaluate
    from bertjax.evaluation.predict_text import predict_lines

    workdir = user_path(WORKDIR.value)
    keep_compiled()
    if INPUT.value is None:
        moved = {name: flag.value for name, flag in PLACES.items() if flag.value is not None}
        evaluate(workdir, SPLIT.value, CHECKPOINT.value, radius=RADIUS.value, layout=FORMAT.value, moved=moved)
        return
    if EXPLAIN.value is not None:
        from bertjax.evaluation.explain import write_page

        beside = None if BESIDE.value is None else user_path(BESIDE.value)
        write_page(
            workdir,
            INPUT.value,
            user_path(EXPLAIN.value),
            beside=beside,
            task=TASK.value,
            checkpoint=CHECKPOINT.value,
            radius=RADIUS.value,
        )
        print(f"page in {EXPLAIN.value}", file=sys.stderr)
        return
    for line in predict_lines(workdir, INPUT.value, TASK.value, CHECKPOINT.value):
        sys.stdout.buffer.write(f"{line}\n".encode())
    sys.stdout.buffer.flush()


def _refuse(why: str, *holders: flags.FlagHolder) -> None:
    for holder in holders:
        if holder.present:
            raise UserError(f"--{holder.name}: {why}")


if __name__ == "__main__":
    cli.run(main)
