"""Evaluates a finished run, or predicts for lines of text and explains the predictions.

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
CHECKPOINT = flags.DEFINE_enum("checkpoint", "final", ["final", "best"], "Last checkpoint, or each task's best on dev.")
SPLIT = flags.DEFINE_enum("split", "dev", ["train", "dev", "test"], "Split to evaluate on.")
FORMAT = flags.DEFINE_enum("format", "table", ["table", "course"], "Format of the predictions: bertjax's or CS224N's.")
RADIUS = flags.DEFINE_float("radius", 0.02, "Relative radius at which smoothness is measured; 0 skips it.")
EXPLAIN = flags.DEFINE_string("explain", None, "With --input, HTML page of the tokens the adversary perturbs most.")
BESIDE = flags.DEFINE_string("beside", None, "With --explain, folder of a second run, for example without SMART.")
MOVED = {
    name: flags.DEFINE_string(f"config.{name}", None, f"New place of the run's {name}, if it has moved.")
    for name in ("data_dir", "data_file", "dev_file")
}
INPUT = flags.DEFINE_string("input", None, "File of lines to predict for, or - for stdin, instead of a split.")
TASK = flags.DEFINE_string("task", None, "With --input, the task, if the run has several.")


def main() -> None:
    """Evaluates the run's checkpoint on the split, or predicts for lines."""
    if INPUT.value is None:
        _refuse("expected only with --input; add --input or drop the flag", TASK, EXPLAIN)
    else:
        _refuse("expected only without --input; drop one of the two", SPLIT, FORMAT, *MOVED.values())
    if EXPLAIN.value is None:
        _refuse("expected only with --explain; add --explain or drop the flag", BESIDE)
        if INPUT.value is not None:
            _refuse("expected only with --explain or without --input; drop the flag", RADIUS)
    # Imported only once the flags are checked: it takes seconds.
    from bertjax.compilation import enable_compilation_cache
    from bertjax.evaluation.evaluator import evaluate
    from bertjax.evaluation.predict_text import predict_lines

    workdir = user_path(WORKDIR.value)
    enable_compilation_cache()
    if INPUT.value is None:
        moved = {name: flag.value for name, flag in MOVED.items() if flag.value is not None}
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
    """Raises a UserError if one of the flags was given."""
    for holder in holders:
        if holder.present:
            raise UserError(f"--{holder.name}: {why}")


if __name__ == "__main__":
    cli.run(main)
