"""Explains predictions on an HTML page: which tokens the worst perturbation moves most, and what is then predicted."""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from bertjax import smart
from bertjax.data.batching import eval_batches
from bertjax.errors import UserError
from bertjax.evaluation.html import html_page
from bertjax.evaluation.predict_text import TextModel, load_text_model, read_texts
from bertjax.files.atomic import write_text
from bertjax.label_scale import unfold_heads
from bertjax.models.forward import Params, as_smart_model
from bertjax.tasks import Task

MAX_LINES = 200
BATCH_SIZE = 16
NUM_POWER_STEPS = 3
"""More than in training: the page shows the worst perturbation, and its cost does not matter."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A model's prediction for one text, with and without the worst perturbation.

    Attributes:
      tokens: the S tokens, special ones included.
      perturbation: RMS of each token's perturbation, relative to the RMS of the text's embeddings, [S].
      output: probabilities of the classes [C], or the score [1].
      perturbed_output: the same under the perturbation.
      divergence: between the two outputs; for scores, in standardised units.
    """

    tokens: list[str]
    perturbation: np.ndarray
    output: np.ndarray
    perturbed_output: np.ndarray
    divergence: float


def explain_step(
    params: Params,
    batch: Mapping[str, jax.Array],
    *,
    model: smart.SplitModel,
    divergence: smart.Divergence,
    radius: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Finds the worst perturbation of each example, without dropout; for the arguments see `smoothness_step`.

    Returns:
      Clean logits [B, C], perturbed logits [B, C], the divergence between them [B], and the relative RMS of each
      token's perturbation [B, S], 0 on padding.
    """

    embeddings, mask = model.embed(params, batch), batch["attention_mask"]

    def logits_fn(embeddings: jax.Array) -> jax.Array:
        return model.logits(params, embeddings, batch, None)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
    delta = smart.perturbation(
        logits_fn, embeddings, keys, divergence=divergence, mask=mask, radius=radius, num_steps=NUM_POWER_STEPS
    )
    clean_logits = logits_fn(embeddings)
    # To second order, delta and -delta are equally bad. Beyond it one is worse: take that one.
    plus, minus = (logits_fn((embeddings + sign * delta).astype(embeddings.dtype)) for sign in (1, -1))
    plus_divergence, minus_divergence = (divergence(logits, clean_logits) for logits in (plus, minus))
    perturbed_logits = jnp.where((plus_divergence >= minus_divergence)[:, None], plus, minus)
    is_token = mask.astype(jnp.float32)
    mean_squares = jnp.mean(jnp.square(embeddings.astype(jnp.float32)), axis=-1)
    embedding_rms = jnp.sqrt(jnp.sum(is_token * mean_squares, axis=-1) / jnp.sum(is_token, axis=-1))
    relative_rms = jnp.sqrt(jnp.mean(jnp.square(delta.astype(jnp.float32)), axis=-1)) / embedding_rms[:, None]
    return clean_logits, perturbed_logits, jnp.maximum(plus_divergence, minus_divergence), relative_rms


def explain_lines(run: TextModel, lines: Sequence[str], radius: float) -> list[Explanation]:
    """Explains a run's prediction for each line; `radius` is relative, see `smart.PowerIteration`."""
    examples = run.tokenize(lines)
    params = unfold_heads(run.restore(), run.task.scales)
    model = as_smart_model(run.model, run.task)
    step = jax.jit(partial(explain_step, model=model, divergence=run.task.divergence, radius=radius))
    explanations: dict[int, Explanation] = {}
    for batch in eval_batches(
        examples,
        batch_size=min(BATCH_SIZE, len(lines)),
        bucket_boundaries=(int(examples.lengths.max()),),
        pad_id=run.pad_id,
    ):
        results = jax.device_get(step(params, batch))
        for row in np.flatnonzero(batch["valid"]):
            clean_logits, perturbed_logits, divergence, relative_rms = (result[row] for result in results)
            index = int(batch["index"][row])
            tokens = [str(run.tokenizer.id_to_token(int(i))) for i in examples.input_ids[index]]
            explanations[index] = Explanation(
                tokens,
                relative_rms[: len(tokens)],
                _readable_output(run.task, clean_logits),
                _readable_output(run.task, perturbed_logits),
                float(divergence),
            )
    return [explanations[index] for index in range(len(lines))]


def _readable_output(task: Task, logits: np.ndarray) -> np.ndarray:
    """Logits as probabilities [C], or a standardised score in the labels' units [1]."""
    if not task.schema.is_score:
        return np.exp(log_softmax(logits.astype(np.float64), axis=-1))
    return logits if task.scale is None else task.scale.unstandardize(logits)


def write_page(
    workdir: Path, source: str, page: Path, *, beside: Path | None, task: str | None, checkpoint: str, radius: float
) -> None:
    """Writes an HTML page that explains each line of a file, for one run or for two side by side.

    Args:
      workdir: folder of a finished run.
      source: the file of lines, see `predict_lines`.
      page: the file to write.
      beside: folder of a second run of the same task, for example one without SMART, or None.
      task: the task's name; None if the run has only one.
      checkpoint: "final" or "best".
      radius: RMS of the perturbation, relative to the RMS of the embeddings.

    Raises:
      UserError: as in `predict_lines`, or there are too many lines, or the page cannot be written.
    """
    if not (math.isfinite(radius) and radius > 0):
        raise UserError(f"--radius: expected a finite number above 0 with --explain, found {radius}")
    run = load_text_model(workdir, task, checkpoint)
    runs = {str(workdir): run}
    if beside is not None:
        runs[str(beside)] = load_text_model(beside, run.task.name, checkpoint)
    lines = read_texts(source, len(run.task.schema.texts))
    if len(lines) > MAX_LINES:
        raise UserError(f"--input: expected at most {MAX_LINES} lines to explain, found {len(lines)}")
    explanations = {name: explain_lines(each, lines, radius) for name, each in runs.items()}
    write_text(page, html_page("bertjax: explained", _STYLE, _page_body(runs, lines, explanations, radius)))


def _page_body(
    runs: Mapping[str, TextModel],
    lines: Sequence[str],
    explanations: Mapping[str, Sequence[Explanation]],
    radius: float,
) -> str:
    about = (
        f"The shade of a token shows how far the worst perturbation, {radius:.2g} of the embeddings' RMS, moves it; "
        "hover for the number. The divergence is between the clean and the perturbed prediction: less is smoother."
    )
    parts = [f"<h1>Explained</h1><p>{html.escape(about)}</p>"]
    for place, line in enumerate(lines):
        parts.append(f"<h2>{html.escape(line.replace(chr(9), ' | '))}</h2>")
        parts += [_section(name, run.task, explanations[name][place]) for name, run in runs.items()]
    return "".join(parts)


def _section(name: str, task: Task, explanation: Explanation) -> str:
    """One run's explanation of one line: its predictions, and the tokens shaded by their perturbation."""
    darkest = max(float(explanation.perturbation.max()), 1e-12)
    spans = []
    for token, relative_rms in zip(explanation.tokens, explanation.perturbation, strict=True):
        is_continuation = token.startswith("##")
        shade = 0.75 * float(relative_rms) / darkest
        spans.append(
            f'{"" if is_continuation else " "}<span style="background:rgb(214 96 34/{shade:.2f})" '
            f'title="{relative_rms:.4f}">{html.escape(token.removeprefix("##"))}</span>'
        )
    clean, perturbed = (_prediction(task, output) for output in (explanation.output, explanation.perturbed_output))
    predictions = f"{clean}; perturbed: {perturbed}; divergence {explanation.divergence:.3g}"
    return (
        f"<section><h3>{html.escape(name)}</h3><p>{html.escape(predictions)}</p>"
        f'<p class="tokens">{"".join(spans).strip()}</p></section>'
    )


def _prediction(task: Task, output: np.ndarray) -> str:
    if task.schema.is_score:
        return f"{output[0]:.3g}"
    return f"{task.schema.label_names[int(output.argmax())]} ({output.max():.0%})"


_STYLE = """:root{color-scheme:light dark}body{font:16px/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}h2{font-size:1.1rem;margin-top:2rem}section{border-left:3px solid #8c959f88;padding-left:1rem;
margin:1rem 0}h3{font-size:.9rem;margin:0}p{margin:.3rem 0}.tokens span{padding:.1rem .05rem;border-radius:3px}"""
