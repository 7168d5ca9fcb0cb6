import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.evaluation import predict_text
from bertjax.evaluation.evaluator import evaluate
from bertjax.evaluation.predict_text import predict_lines, read_texts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def detached_run(gold_run, tmp_path_factory):
    """A copy of the run, evaluated on dev; its data are then out of reach."""
    folder = tmp_path_factory.mktemp("without-data") / "run"
    shutil.copytree(gold_run, folder)
    evaluate(folder, "dev", radius=0)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_dir": "/nowhere"}))
    return folder


def columns_of(path, *places):
    lines = path.read_text().splitlines()[1:]
    return ["\t".join(line.split("\t")[place] for place in places) for line in lines]


def test_lines_are_predicted_in_order_and_as_in_the_split(detached_run, gold_run, tmp_path, monkeypatch):
    texts = columns_of(gold_run.parent / "ids-sst-dev.csv", 2)
    (tmp_path / "lines").write_text("\n".join(texts) + "\n")
    monkeypatch.setattr(predict_text, "_CHUNK_LINES", 10)  # three chunks
    found = [line.split("\t") for line in predict_lines(detached_run, str(tmp_path / "lines"), "sst5")]
    assert [line[2] for line in found] == texts
    expected = (detached_run / "predictions-sst5-dev.csv").read_text().splitlines()[1:]
    for (name, probability, _), line in zip(found, expected, strict=True):
        _, predicted, *probabilities = line.split(",")
        assert name == predicted
        assert float(probability) == pytest.approx(max(map(float, probabilities)), abs=1e-5)


def test_a_vocabulary_of_the_wrong_size_is_refused(detached_run, tmp_path):
    shutil.copytree(detached_run, tmp_path / "run")
    with (tmp_path / "run" / "encoder" / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(UserError, match="expected a vocabulary of at most 40 entries"):
        list(predict_lines(tmp_path / "run", str(tmp_path / "lines"), "sst5"))


def test_scores_of_pairs_have_an_empty_probability(detached_run, gold_run, tmp_path):
    pairs = columns_of(gold_run.parent / "sts-dev.csv", 2, 3)
    (tmp_path / "lines").write_text("\n".join(pairs))
    found = [line.split("\t", 2) for line in predict_lines(detached_run, str(tmp_path / "lines"), "sts")]
    assert [line[1:] for line in found] == [["", pair] for pair in pairs]
    expected = [line.split(",")[1] for line in (detached_run / "predictions-sts-dev.csv").read_text().splitlines()[1:]]
    assert [float(line[0]) for line in found] == pytest.approx(list(map(float, expected)), abs=1e-5)


def test_stdout_holds_only_predictions_and_stderr_no_traceback(detached_run):
    def run(lines, *flags):
        return subprocess.run(
            [sys.executable, str(ROOT / "eval.py"), f"--workdir={detached_run}", "--input=-", *flags],
            input=lines,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=300,
        )

    finished = run("the superb film\r\n   a dull story, \u2028café\n".encode(), "--task=sst5")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.decode().split("\n")
    assert [line.split("\t")[2:] for line in lines] == [["the superb film"], ["   a dull story, \u2028café"], []]
    for flags, message in (
        ([], b"error: --task: expected one of the run's tasks, sst5, sts"),
        (["--task=sst5", "--split=dev"], b"error: --split: expected only without --input"),
    ):
        finished = run(b"the film\n", *flags)
        assert (finished.returncode, finished.stdout) == (2, b"")
        assert finished.stderr.startswith(message)
        assert finished.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        (b"good\n\nbad\n", 1, ":2: expected text, found a blank line; remove it"),
        (b"good\n", 2, ":1: expected two texts"),
        (b"a\tb\n \t \n", 2, ":2: expected text, found a blank line"),
        (b"a\tb\nc\t \n", 2, ":2: expected text in both columns"),
        (b"a\tb\n", 1, ":1: expected one text, found 2 tab-separated columns"),
        (b"a\n\xff\n", 1, ":2: expected UTF-8, found byte 0xff; the input must be UTF-8 text"),
        (b"a\n\0\n", 1, ":2: expected text, found a NUL byte; the input must be UTF-8 text"),
        (b"", 1, ": expected lines of text, found none"),
        (b"\n", 1, ": expected lines of text, found none"),
    ],
)
def test_a_bad_line_is_reported_by_number(tmp_path, data, columns, message):
    (tmp_path / "lines").write_bytes(data)
    with pytest.raises(UserError) as raised:
        read_texts(str(tmp_path / "lines"), columns)
    assert f"{tmp_path / 'lines'}{message}" in str(raised.value)


def test_lines_end_in_lf_or_crlf_and_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "lines").write_bytes("\ufeffone\r\ntwo\u2028\x0bthree\nfour".encode())
    assert read_texts(str(tmp_path / "lines"), 1) == ["one", "two\u2028\x0bthree", "four"]


def test_stdin_is_named_in_errors(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\n")))
    with pytest.raises(UserError, match="^stdin:2: expected text, found a blank line"):
        read_texts("-", 1)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--input: .*lines \(No such file"):
        read_texts(str(tmp_path / "lines"), 1)


def test_an_unknown_task_is_one_line(detached_run):
    with pytest.raises(UserError, match="--task: expected sst5 or sts, found 'sst'; did you mean 'sst5'"):
        next(predict_lines(detached_run, "-", "sst"))


@pytest.mark.parametrize("length", [3, 8, 16, 20, 128])
def test_bucket_boundaries_rise_to_the_maximum_length(length):
    boundaries = predict_text._bucket_boundaries(length)
    assert boundaries[-1] == length
    assert list(boundaries) == sorted(set(boundaries))
