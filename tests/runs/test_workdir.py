import errno
import fcntl
import json
import os
import resource

import pytest
from checkpoints import RESULT
from matplotlib.figure import Figure

from bertjax.config import RunConfig
from bertjax.config.smart import SmartConfig
from bertjax.errors import UserError
from bertjax.evaluation.plots import save_figure
from bertjax.files.atomic import write_json
from bertjax.runs import workdir
from bertjax.runs.lock import lock_folder
from bertjax.runs.metrics_log import MetricsLog, read_records

CONFIG = RunConfig(max_steps=3)


def test_a_new_an_unfinished_and_a_finished_run(tmp_path):
    folder = tmp_path / "runs" / "a"
    assert workdir.check_workdir(folder, CONFIG) is None
    with workdir.open_workdir(folder, CONFIG):
        pass
    assert workdir.check_workdir(folder, CONFIG) is None
    write_json(folder / "result.json", RESULT)
    assert workdir.check_workdir(folder, CONFIG) == RESULT


def test_checking_creates_nothing(tmp_path):
    workdir.check_workdir(tmp_path / "new", CONFIG)
    assert not (tmp_path / "new").exists()


def test_another_config_is_refused_by_its_keys(tmp_path):
    with workdir.open_workdir(tmp_path, CONFIG):
        pass
    other = RunConfig(max_steps=4, smart=SmartConfig(preset="bertjax"))
    with pytest.raises(UserError) as raised:
        workdir.check_workdir(tmp_path, other)
    assert "max_steps was 3, is now 4; smart.preset was 'none', is now 'bertjax'; use another" in str(raised.value)
    assert json.loads((tmp_path / "config.json").read_text())["max_steps"] == 3


def test_the_data_of_an_unfinished_run_may_have_moved(tmp_path):
    with workdir.open_workdir(tmp_path, RunConfig(task="sst5", data_dir="there")):
        pass
    assert workdir.check_workdir(tmp_path, RunConfig(task="sst5", data_dir="here")) is None
    with pytest.raises(UserError, match="another config: data_dir was 'there', is now None; use another one"):
        workdir.check_workdir(tmp_path, RunConfig(task="sst5"))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match="another config: data_dir was 'there', is now 'here'; use another one"):
        workdir.check_workdir(tmp_path, RunConfig(task="sst5", data_dir="here"))


def test_a_config_with_an_unknown_key(tmp_path):
    (tmp_path / "config.json").write_text('{"epochss": 3}')
    with pytest.raises(UserError) as raised:
        workdir.read_run_config(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: --config.epochss: ")
    assert "did you mean 'epochs'?" in message


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        " " * (2**26 + 1),
        '{"epocs": 1}',
        '"\ud800"'.encode("utf-8", "surrogatepass"),
    ],
)
def test_a_broken_config_is_an_error(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError):
        workdir.check_workdir(tmp_path, CONFIG)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds files but no config.json"):
        workdir.check_workdir(tmp_path, CONFIG)


def test_a_folder_with_an_interrupted_first_write_is_accepted(tmp_path):
    (tmp_path / ".config.json.partial").write_text('{"se')
    assert workdir.check_workdir(tmp_path, CONFIG) is None


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder, found a file"):
        workdir.check_workdir(tmp_path / "file", CONFIG)
    with pytest.raises(UserError, match="--workdir: .*below cannot be .*/file is a file; use another one"):
        workdir.check_workdir(tmp_path / "file" / "below", CONFIG)
    with pytest.raises(UserError, match="cannot be written"), workdir.open_workdir(tmp_path / "file" / "below", CONFIG):
        pass


@pytest.mark.parametrize("folder", [".", "new", "a/new"])
def test_a_read_only_folder_is_refused_before_any_work(tmp_path, monkeypatch, folder):
    # Tests may run as root, who can write anywhere.
    monkeypatch.setattr(workdir.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=f"--workdir: .* cannot be written.*{tmp_path}.*; use another one"):
        workdir.check_workdir(tmp_path / folder, CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_can_be_read_in_a_read_only_folder(tmp_path, monkeypatch):
    with workdir.open_workdir(tmp_path, CONFIG):
        write_json(tmp_path / "result.json", RESULT)
    monkeypatch.setattr(workdir.os, "access", lambda path, mode: False)
    assert workdir.check_workdir(tmp_path, CONFIG) == RESULT


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    busy = rf"in use by another run, process {os.getpid()}; "
    with (
        workdir.open_workdir(tmp_path, CONFIG),
        pytest.raises(UserError, match=busy),
        workdir.open_workdir(tmp_path, CONFIG),
    ):
        pass
    with workdir.open_workdir(tmp_path, CONFIG):  # the lock is released at the end
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.EINVAL])
def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch, capsys, number):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".lock").write_text("4194305\n")  # left by a run that was killed
    for _ in range(2):
        with workdir.open_workdir(tmp_path, CONFIG):
            pass
        assert f"cannot be locked ({os.strerror(number)})" in capsys.readouterr().err


def test_a_held_lock_that_names_no_process_is_one_line(tmp_path):
    with workdir.open_workdir(tmp_path, CONFIG):
        (tmp_path / ".lock").write_bytes(b"\xff")
        with pytest.raises(UserError, match="is in use by another run"), workdir.open_workdir(tmp_path, CONFIG):
            pass


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = MetricsLog(tmp_path, 0)
    try:
        with pytest.raises(UserError, match=r"x.json: cannot be written \(File too large\); free space"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
            write_json(path, {"a": "b" * 100})
        with pytest.raises(UserError, match=r"x.png: cannot be written \(File too large\); free space"):
            save_figure(tmp_path / "x.png", Figure())
        with pytest.raises(UserError, match=r"metrics.jsonl: cannot be written"), log:
            log.write(10, 0.5, "train", {"loss": 1.5}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        with pytest.raises(UserError, match=r".lock: cannot be written \(File too large\)"), lock_folder(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads(path.read_text()) == {"a": 1}
    assert not (tmp_path / "x.png").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_log_reads_back_and_writes_events(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(10, 0.5, "train", {"loss": 1.5}, {"step_seconds": 0.1})
        assert read_records(tmp_path) == [
            {"step": 10, "epoch": 0.5, "split": "train", "values": {"loss": 1.5}, "timing": {"step_seconds": 0.1}}
        ]
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_resumed_log_drops_records_to_be_written_again(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (10, 20, 30):
            log.write(step, 0.5, "train", {}, {})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')  # cut off
    with MetricsLog(tmp_path, 20) as log:
        log.write(30, 1.0, "train", {}, {})
        assert [(record["step"], record["epoch"]) for record in read_records(tmp_path)] == [
            (10, 0.5),
            (20, 0.5),
            (30, 1.0),
        ]


def test_a_log_with_a_pending_evaluation_drops_its_record(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (10, 20):
            for split in ("train", "dev"):
                log.write(step, 0.5, split, {}, {})
    with MetricsLog(tmp_path, 20, eval_pending=True) as log:
        found = [(record["step"], record["split"]) for record in read_records(tmp_path)]
    assert found == [(10, "train"), (10, "dev"), (20, "train")]


def test_a_broken_log_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n')
    with pytest.raises(UserError, match="metrics.jsonl: expected one JSON object per line"):
        MetricsLog(tmp_path, 0)
    whole = json.dumps({"step": 1, "epoch": 0.5, "split": "train", "values": {"loss": 1.0}, "timing": {}})
    for line, complaint in (
        ("3", ":2: expected an object, found 3"),
        ("{}", ":2: expected step, found none"),
        (whole.replace("1.0", '"low"'), ":2: expected a number as values.loss, found 'low'"),
        ("\udcff", ": expected one JSON object per line .*can't decode byte 0xff"),
    ):
        (tmp_path / "metrics.jsonl").write_bytes(f"{whole}\n{line}\n".encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=f"metrics.jsonl{complaint}") as raised:
            MetricsLog(tmp_path, 0)
        assert "\n" not in str(raised.value)
