"""The loop on a toy: three numbers that follow a stream of batches, cut, interrupted and damaged in every way."""

import dataclasses
import json
import os
import resource
import signal

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from toy_loop import PLAN, Batches, Kill, lines, run, steps

from bertjax.errors import UserError
from bertjax.runs.checkpoint import Checkpoints
from bertjax.signals import Interrupted
from bertjax.training import train_loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def assert_same_end(workdir, outcome, whole):
    there, expected = whole
    chex.assert_trees_all_equal(jax.device_get(outcome.state), jax.device_get(expected.state))
    assert outcome.scores == expected.scores
    assert outcome.peaks == expected.peaks
    assert lines(workdir) == lines(there)
    assert steps(workdir) == steps(there)
    assert not (workdir / "interrupted").exists()


def raises(error):
    def now():
        raise error

    return now


def test_what_is_logged(whole):
    workdir, outcome = whole
    found = [(line["step"], line["split"]) for line in lines(workdir)]
    assert found == [(8, "dev"), (10, "train"), (16, "dev"), (20, "train"), (23, "train"), (23, "dev")]
    assert (int(outcome.state.step), outcome.skipped) == (23, 0)
    assert list(outcome.peaks) == ["toy 4"]
    assert outcome.peaks["toy 4"] > 4 * 3 * 4  # parameters, both moments and the anchor, of three floats each
    assert {"23", str(outcome.scores["toy"]["best"]["step"])} == set(steps(workdir))
    assert (workdir / "curves.png").exists()


@pytest.mark.parametrize("moments", [(0,), (1,), (4,), (8,), (9,), (12, 13, 22), (22,)])
def test_killed_between_updates_it_comes_to_the_same_end(whole, tmp_path, moments):
    for moment in moments:
        with pytest.raises(Kill):
            run(tmp_path, Batches(at={moment: raises(Kill)}))
    assert_same_end(tmp_path, run(tmp_path), whole)


# Of nine saves, the first, the one beside an evaluation and the last; slow: the others.
@pytest.mark.parametrize(
    "count", [pytest.param(count, marks=[] if count in (1, 3, 9) else pytest.mark.slow) for count in range(1, 10)]
)
def test_killed_while_saving_it_comes_to_the_same_end(whole, tmp_path, monkeypatch, capsys, count):
    saves, save = [], ocp.CheckpointManager.save

    def cut(manager, at, **rest):
        saves.append(at)
        if len(saves) == count:
            half = manager.directory / f"{at}.orbax-checkpoint-tmp"
            (half / "params").mkdir(parents=True)
            raise Kill
        return save(manager, at, **rest)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(ocp.CheckpointManager, "save", cut)
        run(tmp_path)
    assert_same_end(tmp_path, run(tmp_path), whole)
    assert f"{saves[-1]}.orbax-checkpoint-tmp: a checkpoint cut off while it was written" in capsys.readouterr().err


def test_killed_after_the_last_checkpoint_nothing_is_done_twice(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(train_loop, "training_curves", lambda *_: raises(Kill)())
        run(tmp_path)
    assert_same_end(tmp_path, run(tmp_path, Batches(at={i: raises(AssertionError) for i in range(30)})), whole)


MOMENTS = [(0,), (4, 5), (7,), (9, 10, 11), (22,)]


@pytest.mark.parametrize(
    ("number", "moments"),
    [
        *((signal.SIGINT, moments) for moments in MOMENTS),
        (signal.SIGTERM, MOMENTS[1]),
        # Slow: the same handler at the other moments.
        *(pytest.param(signal.SIGTERM, moments, marks=pytest.mark.slow) for moments in MOMENTS[:1] + MOMENTS[2:]),
    ],
)
def test_asked_to_stop_it_saves_and_comes_to_the_same_end(whole, tmp_path, capfd, number, moments):
    for moment in moments:
        batches = Batches(at={moment: lambda: os.kill(os.getpid(), number)})
        with pytest.raises(Interrupted, match=f"stopped after update {moment + 1} of 23;"):
            run(tmp_path, batches)
        assert batches.step == moment + 1  # the update in hand, and no more
    assert f"{number.name}: finishing this update" in capfd.readouterr().err
    assert_same_end(tmp_path, run(tmp_path), whole)


def test_evaluation_is_given_up_when_asked_and_made_up_for(whole, tmp_path):
    calls = []

    def evaluate(params):
        calls.append(float(params["w"].sum()))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal was to end this")
        return {"toy": {"score": abs(calls[-1]), "sum": calls[-1]}}

    with pytest.raises(Interrupted, match="stopped after update 16"):
        run(tmp_path, evaluate=evaluate)
    assert [line["step"] for line in lines(tmp_path)] == [8, 10]
    # Killed with its line written but its checkpoint not: the line comes again, and once.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 16, "epoch": 0, "split": "dev", "values": {}, "timing": {}}) + "\n")
    assert_same_end(tmp_path, run(tmp_path, evaluate=evaluate), whole)
    assert calls[1] == calls[2]


def test_a_second_interrupt_quits_at_once(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised:
        run(tmp_path, Batches(at={4: twice}))
    assert not isinstance(raised.value, Interrupted)
    assert steps(tmp_path) == ["3"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_schedulers_notice_is_heeded(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped after update 5 of 23"):
        patch.setattr(Checkpoints, "reached_preemption", lambda _, step: step == 5)
        run(tmp_path)
    assert_same_end(tmp_path, run(tmp_path), whole)


def test_an_update_that_is_not_finite_changes_nothing(tmp_path, capsys):
    outcome = run(tmp_path, Batches(bad=(5,)), plan=dataclasses.replace(PLAN, num_steps=6, eval_every=6))
    reference = run(tmp_path / "5", plan=dataclasses.replace(PLAN, num_steps=5, eval_every=5))
    chex.assert_trees_all_equal(jax.device_get(outcome.state), jax.device_get(reference.state))
    assert outcome.skipped == 1
    assert "warning: update 6 is skipped: gradient_norm nan, loss nan" in capsys.readouterr().err
    record = next(line for line in lines(tmp_path) if line["split"] == "train")
    assert record["values"]["skipped"] == 1
    assert np.isfinite(record["values"]["loss"])


@pytest.mark.parametrize("kill", [None, 7, 12])
def test_too_many_in_a_row_end_the_run_and_leave_the_last_good_checkpoint(tmp_path, kill):
    # Two in a row are allowed; 4 and 6 are not in a row.
    batches = {"bad": (4, 6, 10, 11, 12)}
    if kill is not None:
        with pytest.raises(Kill):
            run(tmp_path, Batches(**batches, at={kill: raises(Kill)}))
    with pytest.raises(UserError) as raised:
        run(tmp_path, Batches(**batches))
    message = str(raised.value)
    assert "3 updates in a row, up to 13, had a loss or gradient that is not finite" in message
    assert "(the last: gradient_norm nan, loss nan)" in message
    assert "the training rows row48;" in message  # the others only fill up
    assert "a lower --config.learning_rate" in message
    assert "\n" not in message
    assert steps(tmp_path) == ["8", "9"]


def test_a_row_of_them_goes_on_over_a_cut(tmp_path):
    # A checkpoint at every update, and a kill between the second and the third of a row.
    plan = dataclasses.replace(PLAN, checkpoint_every=1)
    bad = (10, 11, 12)
    with pytest.raises(Interrupted):
        run(tmp_path, Batches(bad=bad, at={11: lambda: os.kill(os.getpid(), signal.SIGTERM)}), plan=plan)
    with pytest.raises(UserError, match="3 updates in a row, up to 13,"):
        run(tmp_path, Batches(bad=bad), plan=plan)


def test_a_run_in_which_all_is_left_out_says_so(tmp_path):
    plan = dataclasses.replace(PLAN, num_steps=10, eval_every=10, max_skipped=10)
    outcome = run(tmp_path, Batches(bad=range(10)), plan=plan)
    assert outcome.skipped == 10
    assert [line["values"] for line in lines(tmp_path) if line["split"] == "train"] == [{"skipped": 10}]


# Orbax leaves threads behind that cannot tell of their end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("room", [1, 100, 300])  # bytes a file: what fails is the first file or a later one
def test_a_full_disk_leaves_the_checkpoint_before(whole, tmp_path, capsys, room):  # capsys: else stderr is a file
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    try:
        with pytest.raises(UserError, match="cannot be written .*; free space") as raised:
            run(tmp_path, Batches(at={8: fill}), plan=dataclasses.replace(PLAN, eval_every=23))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(raised.value)
    # Orbax's threads may write on for a moment; what they leave the next call passes over.
    assert [name for name in steps(tmp_path) if name.isdigit()] == ["6"]
    with pytest.raises(Kill):
        run(tmp_path, Batches(at={6: raises(Kill)}))
    assert_same_end(tmp_path, run(tmp_path), whole)


@pytest.mark.parametrize("damage", ["all", "params", "progress"])
def test_a_checkpoint_that_cannot_be_read_is_put_aside(whole, tmp_path, capsys, damage):
    with pytest.raises(Kill):
        run(tmp_path, Batches(at={10: raises(Kill)}))
    assert steps(tmp_path) == ["8", "9"]
    for path in (tmp_path / "checkpoints" / "9" / ("" if damage == "all" else damage)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outcome = run(tmp_path)
    assert "checkpoints/9: this checkpoint cannot be read" in capsys.readouterr().err
    (aside,) = (tmp_path / "checkpoints").glob("unreadable-9-*")
    aside.rename(tmp_path / "aside")
    assert_same_end(tmp_path, outcome, whole)


def test_checkpoints_none_of_which_can_be_read_stay_as_they_are(whole, tmp_path):
    with pytest.raises(Kill):
        run(tmp_path, Batches(at={10: raises(Kill)}))
    log, manifests = (tmp_path / "metrics.jsonl").read_bytes(), {}
    for path in (tmp_path / "checkpoints").rglob("manifest.ocdbt"):
        manifests[path] = path.read_bytes()
        path.write_bytes(b"")
    with pytest.raises(UserError, match="checkpoints/9: this checkpoint cannot be read, nor any other"):
        run(tmp_path)
    assert steps(tmp_path) == ["8", "9"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    for path, data in manifests.items():
        path.write_bytes(data)
    assert_same_end(tmp_path, run(tmp_path), whole)


def test_checkpoints_all_of_whose_metrics_are_broken_stay_as_they_are(tmp_path):
    with pytest.raises(Kill):
        run(tmp_path, Batches(at={10: raises(Kill)}))
    for path in (tmp_path / "checkpoints").glob("*/metrics/metrics"):
        path.write_text('{"sco')
    log = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="checkpoints/[89]: this checkpoint cannot be read, nor any other"):
        run(tmp_path)
    assert steps(tmp_path) == ["8", "9"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_other_data_are_not_gone_on_with(tmp_path):
    with pytest.raises(Kill):
        run(tmp_path, Batches(at={4: raises(Kill)}))
    with pytest.raises(UserError, match="the data of toy have changed since this run began: fingerprint 1, was 0"):
        run(tmp_path, plan=dataclasses.replace(PLAN, fingerprints={"toy": "1"}))


def test_what_is_not_finite_on_dev_ends_the_run_unsaved(tmp_path):
    with pytest.raises(UserError, match="training diverged: score is nan at update 8"):
        run(tmp_path, evaluate=lambda _: {"toy": {"score": float("nan")}})
    assert steps(tmp_path) == ["6"]
