"""Scores are learnt standardised and reported in the labels' units."""

import csv
import json
import math
import random
import shutil

import chex
import jax
import numpy as np
import pytest
from helpers import FILLER, WORDS

from bertjax.config import read_config
from bertjax.errors import UserError
from bertjax.evaluation.evaluator import evaluate
from bertjax.evaluation.explain import explain_lines
from bertjax.evaluation.predict_text import load_text_model, predict_lines
from bertjax.label_scale import LabelScale, fold_heads
from bertjax.pretrained import head_label_scales, load_pretrained, standardize_heads
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.training import finetuning

SCALE = LabelScale(mean=2.0, std=0.5)
HEAD = {"kernel": np.float32([[1.0], [-3.0]]), "bias": np.float32([4.0])}


def test_the_scale_by_hand():
    scale = LabelScale.from_labels(np.float32([1, 2, 6]), "sts")
    assert scale.mean == 3
    assert scale.std == pytest.approx((14 / 3) ** 0.5)
    standardized = scale.standardize(np.float32([1, 2, 6]))
    assert standardized.dtype == np.float32
    np.testing.assert_allclose(standardized, np.array([-2, -1, 3]) / (14 / 3) ** 0.5, rtol=1e-6)


def test_a_small_spread_around_a_large_mean_keeps_its_precision():
    scale = LabelScale.from_labels(np.float32([1990, 1991, 1992, 1993]), "year")
    np.testing.assert_allclose(scale.standardize(np.float32([1990, 1993])), [-1.3416408, 1.3416408], rtol=1e-6)


def test_equal_labels_are_refused():
    with pytest.raises(UserError, match=r"^sts: expected training scores that differ, found 2.5 in all 3 rows; "):
        LabelScale.from_labels(np.float32([2.5] * 3), "sts")


def test_folding_by_hand():
    folded = SCALE.fold(HEAD)
    chex.assert_trees_all_equal(folded, {"kernel": np.float32([[0.5], [-1.5]]), "bias": np.float32([4.0])})
    chex.assert_trees_all_equal(SCALE.unfold(folded), HEAD)
    states = np.float32([[0.3, -0.1], [2.0, 1.0]])
    standardized, scores = (states @ head["kernel"] + head["bias"] for head in (HEAD, folded))
    np.testing.assert_allclose(scores, 2 + 0.5 * standardized, rtol=1e-6)


def test_only_heads_with_a_scale_are_folded():
    params = {"layer_0": {"kernel": np.ones(2)}, "head_a": HEAD, "head_b": HEAD}
    folded = fold_heads(params, {"b": SCALE})
    chex.assert_trees_all_equal(folded, params | {"head_b": SCALE.fold(HEAD)})


@pytest.mark.parametrize(
    ("other", "is_near"),
    [((2.1, 0.6), True), ((2.9, 0.5), True), ((3.1, 0.5), False), ((40.0, 10.0), False), ((2.0, 0.1), False)],
)
def test_scales_of_the_same_labels_are_near(other, is_near):
    assert SCALE.is_near(LabelScale(*other)) == is_near
    assert LabelScale(*other).is_near(SCALE) == is_near


def test_a_head_of_scores_is_reused_standardised(capsys):
    params = {"head_a": HEAD, "other": 1}
    heads = standardize_heads(params, {"head_a": LabelScale(2.1, 0.6)}, {"a": SCALE})
    chex.assert_trees_all_equal(heads, {"head_a": SCALE.unfold(HEAD), "other": 1})
    assert capsys.readouterr().err == ""


def test_a_head_of_another_scale_is_not_reused(capsys):
    assert standardize_heads({"head_a": HEAD}, {"head_a": LabelScale(50, 25)}, {"a": SCALE}) == {}
    message = "a: a new head: the checkpoint's is for scores of mean 50, standard deviation 25, here mean 2, "
    assert capsys.readouterr().err.startswith(message)


def test_a_head_of_unknown_scale_is_reused_if_it_is_near(capsys):
    heads = standardize_heads({"head_a": HEAD}, {}, {"a": SCALE})
    chex.assert_trees_all_equal(heads, {"head_a": SCALE.unfold(HEAD)})
    assert capsys.readouterr().err.startswith("a: the checkpoint does not state the units of its head's scores")
    far = HEAD | {"bias": np.float32([50.0])}
    assert standardize_heads({"head_a": far}, {}, {"a": SCALE}) == {}
    assert capsys.readouterr().err.startswith(
        "a: a new head: the checkpoint's is for scores in other units, here mean 2"
    )
    # A head of another shape is dropped by `with_heads`, without these lines.
    classes = {"head_a": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}
    chex.assert_trees_all_equal(standardize_heads(classes, {}, {"a": SCALE}), classes)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_bad_scale_is_refused(mean, std):
    with pytest.raises(ValueError, match="expected a finite mean and a std above 0"):
        LabelScale(mean, std)


# Whole runs


def write_scores(path, factor, shift=0.0):
    """Writes sentences with scores of 0 to 4 times the factor plus the shift; one word of each decides the score."""
    rng, lines = random.Random(0), ["text\tlabel"]
    for i in range(60):
        words = [*rng.choices(FILLER, k=6), rng.choice(WORDS[i % 5].split())]
        lines.append(f"{' '.join(words)}\t{shift + factor * (i % 5):g}")
    path.write_text("\n".join(lines) + "\n")


def run_on_scores(folder, tiny_checkpoint, factor, shift=0.0, **changes):
    folder.mkdir()
    write_scores(folder / "scores.tsv", factor, shift)
    values = {
        "data_file": str(folder / "scores.tsv"),
        "columns": {"range": [shift, shift + 4 * factor]},
        "init_from": str(tiny_checkpoint),
        "batch_size": 8,
        "max_length": 12,
        "epochs": 20,
        "max_steps": 120,
        "eval_every": 60,
        "learning_rate": 0.003,
        "smart": {"preset": "bertjax", "horizon": 0.2},
    }
    config = read_config({**values, **changes})
    return finetuning.train_and_evaluate(config, folder / "run"), folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_checkpoint):
    """Results and folders of runs on the same labels, scaled to 0..1, 0..5, 0..100 and 10..11."""
    root, one_device = tmp_path_factory.mktemp("scores"), jax.devices()[:1]  # which compiles faster
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: one_device)
        patch.setenv("BERTJAX_CACHE", str(root / "cache"))
        scales = {"1": (0.25,), "5": (1.25,), "100": (25.0,), "11": (0.25, 10.0)}
        yield {name: run_on_scores(root / name, tiny_checkpoint, *scale) for name, scale in scales.items()}


def predictions(run):
    with (run / "predictions-data_file-dev.csv").open(newline="") as file:
        return np.array([float(row["predicted"]) for row in csv.DictReader(file)])


def test_the_unit_of_the_labels_does_not_matter(runs):
    first, _ = runs["1"]
    base = first["dev"]["data_file"]["final"]
    assert base["r2"] > 0.2  # the model has learnt something
    for name, factor in {"5": 5, "100": 100, "11": 1}.items():
        result, _ = runs[name]
        found = result["dev"]["data_file"]["final"]
        for metric in ("pearson", "spearman", "r2", "loss"):
            assert found[metric] == pytest.approx(base[metric], abs=1e-4)
        assert found["mse"] == pytest.approx(base["mse"] * factor**2, rel=1e-3)


@pytest.mark.slow
def test_predictions_and_smoothness_of_each_unit(runs, capsys):
    summaries = {name: evaluate(run, "dev") for name, (_, run) in runs.items()}
    base = predictions(runs["1"][1])
    for name, (factor, shift) in {"5": (5, 0), "100": (100, 0), "11": (1, 10)}.items():
        result, run = runs[name]
        np.testing.assert_allclose(predictions(run), shift + factor * base, atol=2e-4 * factor)
        assert summaries[name]["metrics"]["data_file"]["mse"] == pytest.approx(
            result["dev"]["data_file"]["final"]["mse"], rel=1e-4
        )
        means = [summaries[key]["smoothness"]["data_file"]["mean"] for key in ("1", name)]
        assert means[1] == pytest.approx(means[0], rel=1e-2)
    assert "label_scale" in summaries["5"]["datasets"]["data_file"]


@pytest.mark.slow
def test_lines_and_explanations_of_each_unit(runs, tmp_path):
    (tmp_path / "lines").write_text("the superb film\na dull story\n")
    found, divergences = {}, {}
    for name in ("1", "100"):
        run = runs[name][1]
        found[name] = np.array([float(line.split("\t")[0]) for line in predict_lines(run, str(tmp_path / "lines"))])
        explained = explain_lines(load_text_model(run, None, "final"), ["the superb film", "a dull story"], 0.1)
        np.testing.assert_allclose([e.output[0] for e in explained], found[name], rtol=1e-5)
        divergences[name] = [e.divergence for e in explained]
    np.testing.assert_allclose(found["100"], 100 * found["1"], atol=2e-2)
    np.testing.assert_allclose(divergences["100"], divergences["1"], rtol=1e-2)


def test_an_exported_score_is_in_the_labels_units(runs, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    _, run = runs["100"]
    (tmp_path / "lines").write_text("the superb film\na dull story\n")
    ours = [float(line.split("\t")[0]) for line in predict_lines(run, str(tmp_path / "lines"))]
    assert all(5 < score < 95 for score in ours)  # impossible for standardised scores
    export(run, tmp_path / "out")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        theirs = model(**tokenizer(["the superb film", "a dull story"], padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(theirs[:, 0].numpy(), ours, rtol=1e-4)


def test_the_scale_is_kept_by_convert_and_export(runs, tmp_path, capsys):
    """Otherwise a head for 0..100 would be reused for labels of 0..5."""
    result, run = runs["100"]
    expected = LabelScale(**result["datasets"]["data_file"]["label_scale"])
    convert(run, tmp_path / "converted")
    export(run, tmp_path / "exported", checkpoint="best")
    ours, theirs = (load_pretrained(folder)[1]["head_data_file"] for folder in (run, tmp_path / "converted"))
    chex.assert_trees_all_equal(ours, theirs)
    assert head_label_scales(run) == head_label_scales(tmp_path / "converted") == {"head_data_file": expected}
    assert head_label_scales(tmp_path / "exported") == {"classifier": expected}
    convert(tmp_path / "exported", tmp_path / "again")
    assert head_label_scales(tmp_path / "again") == {"classifier": expected}
    capsys.readouterr()
    _, params = load_pretrained(tmp_path / "exported")
    head = {"head_data_file": params["classifier"]}
    assert standardize_heads(head, head_label_scales(tmp_path / "exported"), {"data_file": LabelScale(2.5, 1.7)}) == {}
    assert "a new head: the checkpoint's is for scores of mean" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["label_scales.json", "config.json"])
def test_a_broken_scale_is_one_line(tiny_checkpoint, tmp_path, name):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    for bad in ({"mean": 0.0}, {"mean": 0.0, "std": 0.0}, {"mean": 10**400, "std": 1}, 3):
        broken = {"head_a": bad} if name == "label_scales.json" else config | {"label_scale": bad}
        (folder / name).write_text(json.dumps(broken))
        with pytest.raises(UserError, match=rf"{name}: .*(expected|too large)"):
            head_label_scales(folder)


def test_a_finished_run_on_raw_scores_is_read_unscaled(runs, tmp_path):
    """An earlier version wrote no scale; its heads already predict in the labels' units."""
    _, run = runs["5"]
    old = tmp_path / "old"
    shutil.copytree(run, old)
    result = json.loads((old / "result.json").read_text())
    scale = LabelScale(**result["datasets"]["data_file"].pop("label_scale"))
    (old / "result.json").write_text(json.dumps(result))
    (tmp_path / "lines").write_text("the superb film\na dull story\n")
    raw, folded = (
        np.array([float(line.split("\t")[0]) for line in predict_lines(folder, str(tmp_path / "lines"))])
        for folder in (old, run)
    )
    np.testing.assert_allclose(folded, scale.unstandardize(raw), rtol=1e-5)
    trained, scaled = (load_pretrained(folder)[1]["head_data_file"] for folder in (old, run))
    chex.assert_trees_all_close(scale.fold(trained), scaled, rtol=1e-6)
    assert head_label_scales(old) == {}
    summary = evaluate(old, "dev")
    assert summary["metrics"]["data_file"]["loss"] == summary["metrics"]["data_file"]["mse"]


@pytest.mark.slow
def test_a_run_from_another_run_keeps_its_scores(runs, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """With a learning rate of 0 the second run predicts what the first did."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    first, source = runs["5"]
    later, _ = run_on_scores(tmp_path / "later", source, 1.25, learning_rate=0.0, weight_decay=0.0, max_steps=4)
    expected = first["dev"]["data_file"]["final"]
    for name, value in later["dev"]["data_file"]["final"].items():
        assert value == pytest.approx(expected[name], abs=1e-4)
    assert "head" not in capsys.readouterr().err
    run_on_scores(tmp_path / "other", source, 25.0, max_steps=1)
    assert "data_file: a new head: the checkpoint's is for scores of mean 2" in capsys.readouterr().err


def test_equal_labels_are_refused_before_a_run_begins(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="data_file: expected training scores that differ, found 3 in all 4[0-9] rows"):
        run_on_scores(tmp_path / "equal", tiny_checkpoint, 0.0, 3.0, columns={"range": [0.0, 5.0]})
    assert not (tmp_path / "equal" / "run").exists()


def test_a_run_begun_with_raw_scores_is_not_resumed(runs, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    _, run = runs["5"]
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "result.json").unlink()
    (progress,) = (tmp_path / "old" / "checkpoints" / "120" / "progress").glob("metadata")
    values = json.loads(progress.read_text())
    assert values["scales"]["data_file"]["std"] == pytest.approx(1.25 * 2**0.5, rel=0.1)
    del values["scales"]
    progress.write_text(json.dumps(values))
    config = json.loads((run / "config.json").read_text())
    with pytest.raises(UserError, match="found one begun with raw scores, by an earlier version; finish it with"):
        finetuning.train_and_evaluate(read_config(config), tmp_path / "old")
