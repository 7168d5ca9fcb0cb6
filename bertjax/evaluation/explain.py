"""A page that shows what the adversary does to given sentences: which tokens it moves, and what that changes."""

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

MAX_LINES = 200


POWER_STEPS = 3
"""More than in training: here the worst perturbation is to be shown, and time is no matter."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What one model makes of one text.

    Attributes:
      tokens: as the vocabulary has them.
      moved: RMS of each token's perturbation as a share of the embeddings' own, [S].
      output: probabilities of the classes, or a score, [C].
      moved_output: the same with the perturbation.
      divergence: between the two; of scores, standardised.
    """

    tokens: list[str]
    moved: np.ndarray
    output: np.ndarray
    moved_output: np.ndarray
    divergence: float


def explain_step(
    params: Params, batch: Mapping[str, jax.Array], *, model: smart.Model, divergence: smart.Divergence, radius: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Of a batch, without dropout: outputs [B, C], those at the worst perturbation, its divergence [B], and norms.

    The norms are `Explanation.moved`, [B, S], 0 on padding. Arguments as of `smoothness.smoothness_step`.
    """

    def explain(example: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        embedding, mask = model.embed(params, example), example["attention_mask"]

        def logits_fn(embedding: jax.Array) -> jax.Array:
            return model.logits(params, embedding, example, None)

        key = jax.random.fold_in(jax.random.key(0), example["index"])
        delta = smart.power_iteration(
            logits_fn, embedding, key, divergence=divergence, radius=radius, num_steps=POWER_STEPS, mask=mask
        )
        clean = logits_fn(embedding)
        # To second order both signs are the worst; beyond it one is.
        there, back = (logits_fn((embedding + sign * delta).astype(embedding.dtype)) for sign in (1, -1))
        up, down = (divergence.value(moved, clean) for moved in (there, back))
        real = mask.astype(jnp.float32)
        squares = jnp.mean(jnp.square(embedding.astype(jnp.float32)), axis=-1)
        size = jnp.sqrt(jnp.sum(real * squares) / jnp.sum(real))
        norms = jnp.sqrt(jnp.mean(jnp.square(delta.astype(jnp.float32)), axis=-1)) / size
        return clean, jnp.where(up >= down, there, back), jnp.maximum(up, down), norms

    return jax.vmap(explain)(batch)


def explain_lines(run: TextModel, lines: Sequence[str], radius: float) -> list[Explanation]:
    """What a run makes of each line; `radius` as of `smart.power_iteration`."""
    examples, params = run.tokenize(lines), unfold_heads(run.restore(), run.task.scales)
    step = jax.jit(
        partial(explain_step, model=as_smart_model(run.model, run.task), divergence=run.task.divergence, radius=radius)
    )
    found: dict[int, Explanation] = {}
    scale = run.task.scale
    longest = int(examples.lengths.max())
    for batch in eval_batches(
        examples, batch_size=min(16, len(lines)), bucket_boundaries=(longest,), pad_id=run.pad_id
    ):
        columns = jax.device_get(step(params, batch))
        for place in np.flatnonzero(batch["valid"]):
            clean, moved, divergence, norms = (column[place] for column in columns)
            index = int(batch["index"][place])
            tokens = [str(run.tokenizer.id_to_token(int(i))) for i in examples.input_ids[index]]
            if not run.task.schema.is_score:
                clean, moved = (np.exp(log_softmax(x.astype(np.float64), axis=-1)) for x in (clean, moved))
            elif scale is not None:
                clean, moved = (scale.unstandardize(x) for x in (clean, moved))
            found[index] = Explanation(tokens, norms[: len(tokens)], clean, moved, float(divergence))
    return [found[index] for index in range(len(lines))]


def write_page(
    workdir: Path, source: str, page: Path, *, beside: Path | None, task: str | None, checkpoint: str, radius: float
) -> None:
    """Writes an HTML page that explains each line of a file, for one run or for two side by side.

    Args:
      workdir: of a finished run.
      source: as of `raw.predict_lines`.
      page: the file to write.
      beside: of another run of the same task, say one without SMART, or None.
      task: its name; may be None where the run has but one.
      checkpoint: "final" or "best".
      radius: of the perturbation, as a share of the embeddings' RMS.

    Raises:
      UserError: as `raw.predict_lines`, or too many lines, or a page that cannot be written.
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
    explained = {name: explain_lines(each, lines, radius) for name, each in runs.items()}
    body = []
    for place, line in enumerate(lines):
        body.append(f"<h2>{html.escape(' | '.join(line.split(chr(9))))}</h2>")
        body += [_card(name, runs[name], found[place]) for name, found in explained.items()]
    about = (
        f"Each token is as dark as the worst perturbation, {radius:.2g} of the embeddings' RMS, moves it; hover for "
        "its share. The divergence is what that reaches: less is smoother."
    )
    text = f"<h1>Explained</h1><p>{html.escape(about)}</p>{''.join(body)}"
    write_text(page, html_page("bertjax: explained", _STYLE, text))


def _card(name: str, run: TextModel, found: Explanation) -> str:
    most = max(float(found.moved.max()), 1e-12)
    spans = []
    for token, moved in zip(found.tokens, found.moved, strict=True):
        joined = token.startswith("##")
        shade = 0.75 * float(moved) / most
        spans.append(
            f'{"" if joined else " "}<span style="background:rgb(214 96 34/{shade:.2f})" title="{moved:.4f}">'
            f"{html.escape(token.removeprefix('##'))}</span>"
        )
    told = f"{_told(run, found.output)}; moved: {_told(run, found.moved_output)}; divergence {found.divergence:.3g}"
    return (
        f"<section><h3>{html.escape(name)}</h3><p>{html.escape(told)}</p>"
        f'<p class="tokens">{"".join(spans).strip()}</p></section>'
    )


def _told(run: TextModel, output: np.ndarray) -> str:
    if run.task.schema.is_score:
        return f"{output[0]:.3g}"
    return f"{run.task.schema.label_names[int(output.argmax())]} ({output.max():.0%})"


_STYLE = """:root{color-scheme:light dark}body{font:16px/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}h2{font-size:1.1rem;margin-top:2rem}section{border-left:3px solid #8c959f88;padding-left:1rem;
margin:1rem 0}h3{font-size:.9rem;margin:0}p{margin:.3rem 0}.tokens span{padding:.1rem .05rem;border-radius:3px}"""
