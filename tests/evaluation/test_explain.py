import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Page

from bertjax import smart
from bertjax.errors import UserError
from bertjax.evaluation.explain import explain_lines, explain_step, write_page
from bertjax.evaluation.predict_text import load_text_model, predict_lines

ROOT = Path(__file__).parents[2]
LINES = ["the film and superb", "awful scenes with a story of this director", "plain <b>"]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "lines"
    path.write_text("\n".join(LINES) + "\n")
    return str(path)


def test_outputs_are_the_predictions_and_the_perturbation_has_its_radius(gold_run, source):
    run = load_text_model(gold_run, "sst5", "final")
    found = explain_lines(run, LINES, 0.05)
    for line, each in zip(predict_lines(gold_run, source, "sst5"), found, strict=True):
        name, probability, _ = line.split("\t")
        assert run.task.schema.label_names[each.output.argmax()] == name
        assert each.output.max() == pytest.approx(float(probability), abs=1e-5)
        assert each.output.sum() == pytest.approx(1)
        assert np.sqrt(np.mean(each.perturbation**2)) == pytest.approx(0.05, rel=1e-3)
        # The symmetric divergence, computed from the probabilities.
        p, q = each.output, each.perturbed_output
        assert each.divergence == pytest.approx(np.sum((p - q) * np.log(p / q)), rel=2e-2, abs=1e-7)
    assert found[0].tokens == ["[CLS]", "the", "film", "and", "superb", "[SEP]"]
    # To second order the divergence is quadratic in the radius.
    smaller = explain_lines(run, LINES, 0.005)
    for large, small in zip(found, smaller, strict=True):
        assert large.divergence / small.divergence == pytest.approx(100, rel=0.2)


def test_the_worse_of_both_signs_is_shown():
    # Σ eˣ changes more upwards than downwards.
    def logits(params, x, batch, key):
        return jnp.sum(jnp.where(batch["attention_mask"][..., None], jnp.exp(x), 0), axis=(1, 2))[:, None]

    model = smart.SplitModel(lambda params, batch: batch["x"], logits)
    batch = {"x": jnp.ones((16, 3, 2)), "attention_mask": jnp.ones((16, 3), bool), "index": jnp.arange(16)}
    clean, perturbed, divergence, _ = explain_step({}, batch, model=model, divergence=smart.squared_error, radius=0.3)
    np.testing.assert_allclose(clean, 6 * np.e, rtol=1e-5)
    np.testing.assert_allclose(perturbed, 6 * np.exp(1.3), rtol=1e-5)
    np.testing.assert_allclose(divergence, (6 * (np.exp(1.3) - np.e)) ** 2, rtol=1e-4)


def test_scores_are_in_the_labels_units_and_their_divergence_is_standardised(gold_run):
    (found,) = explain_lines(load_text_model(gold_run, "sts", "final"), ["the film\ta story"], 0.1)
    assert found.output.shape == (1,)
    variance = np.var([i % 6 for i in range(16)])  # of the training labels, which standardise the scores
    squared_change = float((found.output[0] - found.perturbed_output[0]) ** 2)
    assert found.divergence == pytest.approx(squared_change / variance, rel=1e-3)


def test_the_page_is_well_formed_and_shows_both_runs(gold_run, source, tmp_path):
    path, other = tmp_path / "page.html", tmp_path / "other"
    shutil.copytree(gold_run, other)
    command = [sys.executable, "eval.py", f"--workdir={gold_run}", f"--input={source}", "--task=sst5"]
    done = subprocess.run(
        [*command, f"--explain={path}", f"--beside={other}"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert (done.stdout, f"page in {path}" in done.stderr) == ("", True)
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert (page.counts["h2"], page.counts["section"]) == (3, 6)
    assert "plain &lt;b&gt;" in text
    shades = [float(x) for x in re.findall(r"rgb\(214 96 34/([\d.]+)\)", text)]
    assert max(shades) == 0.75
    assert len(set(shades)) > 5


def test_user_errors_are_one_line(gold_run, source, tmp_path):
    def write(source=source, radius=0.02):
        write_page(gold_run, source, tmp_path / "page", beside=None, task="sst5", checkpoint="final", radius=radius)

    with pytest.raises(UserError, match="--radius: expected a finite number above 0 with --explain, found 0"):
        write(radius=0)
    (tmp_path / "many").write_text("the film\n" * 201)
    with pytest.raises(UserError, match="--input: expected at most 200 lines to explain, found 201"):
        write(source=str(tmp_path / "many"))
    for flags, message in (
        (["--explain=page.html"], "error: --explain: expected only with --input"),
        (["--input=x", "--beside=y"], "error: --beside: expected only with --explain"),
    ):
        done = subprocess.run(
            [sys.executable, "eval.py", "--workdir=x", *flags], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
