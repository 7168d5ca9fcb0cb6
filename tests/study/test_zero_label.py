"""The cosine of sentence vectors as a baseline without training."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import write_sts

from bertjax import encode
from bertjax.config import RunConfig
from bertjax.pretrained import STARTER, is_sentence_encoder, load_pretrained
from bertjax.pretrained.tokenizer import load_tokenizer
from bertjax.study.baselines import measure_baselines, read_baselines
from bertjax.study.plan import Trial
from bertjax.study.report import zero_label_note
from bertjax.study.zero_label import best_threshold, cosine, cosine_score
from bertjax.tasks import get_task


@pytest.mark.parametrize(
    ("cosines", "labels", "low", "high", "above"),
    [
        ([0.1, 0.9, 0.4, 0.6], [0, 1, 0, 1], 0.4, 0.6, 1),
        ([0.1, 0.9, 0.4, 0.6], [0, 1, 1, 1], 0.1, 0.4, 1),
        ([0.1, 0.9, 0.4, 0.6], [1, 0, 1, 0], 0.4, 0.6, 0),  # as for RTE, whose class 0 is entailment
        ([1.0, 1.0, 1.0, 0.2], [0, 1, 1, 0], 0.2, 1.0, 1),  # equal cosines cannot be separated
        ([0.3, 0.5], [1, 1], -1.0, 0.3, 1),
    ],
)
def test_the_threshold_is_between_the_classes(cosines, labels, low, high, above):
    threshold, side = best_threshold(np.array(cosines), np.array(labels))
    assert low < threshold < high
    assert side == above


def test_the_threshold_is_the_best_one():
    rng = np.random.default_rng(0)
    cosines, labels = rng.uniform(-1, 1, 40).round(1), rng.integers(0, 2, 40)
    bounds = np.linspace(-1.5, 1.5, 3001)
    hits = [max(((cosines > bound) == labels).sum(), ((cosines > bound) != labels).sum()) for bound in bounds]
    threshold, above = best_threshold(cosines, labels)
    assert (np.where(cosines > threshold, above, 1 - above) == labels).sum() == max(hits)


def test_the_cosine_by_hand():
    found = cosine(np.float32([[1, 0], [3, 4], [0, 0]]), np.float32([[2, 0], [-3, -4], [1, 1]]))
    np.testing.assert_allclose(found, [1, -1, 0])


def test_each_text_is_embedded_by_itself(tiny_checkpoint, sst_folder):
    write_sts(sst_folder)
    config = RunConfig(task="sts", data_dir=str(sst_folder), init_from=str(tiny_checkpoint), max_length=16)
    found = cosine_score(get_task("sts"), config)
    model_config, params = load_pretrained(tiny_checkpoint)
    tokenizer = load_tokenizer(tiny_checkpoint)

    def vector(text):
        hidden, _ = encode(params, model_config, jnp.array([tokenizer.encode(text).ids]))
        return np.asarray(hidden[0]).mean(axis=0)

    rows = [line.split("\t") for line in (sst_folder / "sts-dev.csv").read_text().splitlines()[1:]]
    cosines = []
    for row in rows:
        a, b = vector(row[2]), vector(row[3])
        cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    expected = np.corrcoef(cosines, [float(row[4]) for row in rows])[0, 1]
    assert found["score"] == pytest.approx(expected, abs=1e-5)
    assert (found["metric"], found["rows"], found["threshold"]) == ("pearson", 9, None)
    # The model has 32 positions; padding to a multiple of eight must not pass them, nor longer texts.
    longer = cosine_score(get_task("sts"), dataclasses.replace(config, max_length=100))
    assert longer["score"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("pooling", "expected"), [({}, False), ({"pooling_mode_mean_tokens": True}, True)])
def test_a_sentence_encoder_says_so(tiny_checkpoint, tmp_path, pooling, expected):
    assert is_sentence_encoder(STARTER)
    assert not is_sentence_encoder(tiny_checkpoint)
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert is_sentence_encoder(folder) == expected


def test_a_study_measures_baselines_once_and_reports_them(tiny_checkpoint, sst_folder, tmp_path, monkeypatch):
    write_sts(sst_folder)
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    common = {"data_dir": str(sst_folder), "max_length": 16}
    trials = [
        Trial(("sst5",), "fine-tune", 1.0, 0, RunConfig(task="sst5", init_from=str(folder), **common)),
        Trial(("sts",), "fine-tune", 1.0, 0, RunConfig(task="sts", init_from=str(folder), **common)),
        Trial(("sts",), "plain BERT", 1.0, 0, RunConfig(task="sts", init_from=str(tiny_checkpoint), **common)),
    ]
    measured = []

    def each(run, jobs, workers):
        measured.extend(task.name for task, _ in jobs)
        return [(job, run(job)) for job in jobs]

    monkeypatch.setattr("bertjax.study.baselines.run_jobs", each)
    for _ in range(2):
        assert measure_baselines(trials, tmp_path) == []
    assert measured == ["sts"]
    lines = [{"fingerprints": {"sts": json.loads((tmp_path / "baselines.json").read_text())["sts"]["fingerprint"]}}]
    found = read_baselines(tmp_path, lines)
    (line,) = zero_label_note("sts", found)
    assert f"{100 * found['sts']['score']:.2f} on the same 9 rows" in line
    assert zero_label_note("sst5", found) == []
    assert read_baselines(tmp_path, [{"fingerprints": {"sts": "other data"}}]) == {}
    # Another checkpoint is measured again; one that cannot be read is reported.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    moved = dataclasses.replace(trials[1], config=dataclasses.replace(trials[1].config, init_from=str(elsewhere)))
    lost = dataclasses.replace(trials[1], config=dataclasses.replace(trials[1].config, init_from="/nowhere"))
    (failure,) = measure_baselines([moved, lost], tmp_path)
    assert measured == ["sts", "sts"]
    assert failure.startswith("/nowhere, before any fine-tuning: ")
