"""Measures how good the adversary's directions are, on MiniLM-L6 and real sentences.

    python -m benchmarks.directions

For each start and number of power steps: the share of the largest possible δᵀ(JᵀHJ)δ that a direction reaches, before,
early and late in training on rated_sst; and the cosine between directions found in bfloat16 and in float32. Ten
minutes on two cores; writes docs/directions.md.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import smart
from bertjax.config import RunConfig
from bertjax.data.batching import eval_batches, train_batches
from bertjax.data.pipeline import Inputs, load_inputs
from bertjax.models.forward import as_smart_model
from bertjax.pretrained import STARTER, load_pretrained, with_heads
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

SENTENCES, LENGTH, BATCH_SIZE = 32, 48, 16
STAGES = (0, 60, 300)
DIVERGENCE = smart.symmetric_kl
STARTS = {
    "noise": {"start": "noise"},
    "output, kernel unknown": {"start": "output"},
    "output, kernel known": {"start": "output", "kernel": True},
    "task gradient": {"start": "task_gradient"},
}
STEPS = (0, 1, 2, 4)


def load() -> tuple[Inputs, dict]:
    """Loads rated_sst, and the starter's parameters with a new head."""
    inputs = load_inputs(RunConfig(max_length=LENGTH), STARTER, ("train", "dev"))
    architecture, weights = load_pretrained(inputs.folder)
    params = with_heads(weights, architecture, inputs.model.heads, jax.random.key(0))
    return inputs, jax.tree.map(jnp.array, params)


def sentences(inputs: Inputs, count: int = SENTENCES) -> dict[str, np.ndarray]:
    """A batch of the dev split's sentences, of all lengths."""
    examples = inputs.data["rated_sst"].examples["dev"]
    batches = list(eval_batches(examples, batch_size=len(examples), bucket_boundaries=(LENGTH,)))
    rows = np.random.default_rng(0).permutation(len(examples))[:count]
    return {name: x[rows] for name, x in batches[0].items()}


def trained(inputs: Inputs, params: dict, num_steps: int) -> dict:
    """The parameters after `num_steps` plain updates, with a learning rate schedule of that length."""
    if not num_steps:
        return params
    tx = optimizer.adamw(optimizer.linear_schedule(1e-4, num_steps, 0.1), 0.01)
    settings = smart.preset("none")
    step = jax.jit(
        partial(
            train_step,
            FinetuningSpec(model=inputs.model, tasks=inputs.tasks, tx=tx, settings=settings, num_steps=num_steps),
        ),
        donate_argnums=0,
    )
    state = init_state(jax.tree.map(jnp.copy, params), tx, settings)
    train = inputs.data["rated_sst"].examples["train"]
    batches = train_batches(train, batch_size=BATCH_SIZE, bucket_boundaries=(24, LENGTH), seed=0, epochs=1)
    for _, batch in zip(range(num_steps), batches, strict=False):
        state, _ = step(state, {"rated_sst": batch}, jax.random.key(1))
    return state.params


def embeddings_and_logits(
    inputs: Inputs, params: dict, batch: Mapping, dtype: jnp.dtype = jnp.float32
) -> tuple[jax.Array, Callable]:
    """The embeddings [B, S, D], and a function (embedding [S, D], example) to logits [C], without dropout."""
    cut = as_smart_model(inputs.model.clone(dtype=dtype), inputs.tasks[0])
    return jax.vmap(cut.embed, (None, 0))(params, batch), lambda x, example: cut.logits(params, x, example, None)


def directions(
    inputs: Inputs, params: dict, batch: Mapping, start: str, num_steps: int, *, kernel: bool = False
) -> np.ndarray:
    """The adversary's unit directions for a start and a number of power steps: float32 [B, S·D]."""

    @jax.jit
    def seek(params, batch):
        embeddings, logits_of = embeddings_and_logits(inputs, params, batch)
        keys = jax.random.split(jax.random.key(2), len(batch["label"]))

        def one(x, example, key):
            at = start
            if start == "task_gradient":
                at = jax.grad(lambda x: inputs.tasks[0].loss(logits_of(x, example), example["label"]))(x)
            return smart.power_iteration(
                lambda x: logits_of(x, example),
                x,
                key,
                divergence=DIVERGENCE,
                radius=1.0,
                relative=False,
                num_steps=num_steps,
                start=at,
                kernel=params[f"head_{inputs.tasks[0].name}"]["kernel"] if kernel else None,
                mask=example["attention_mask"],
            )

        return jax.vmap(one)(embeddings, batch, keys)

    deltas = np.asarray(seek(params, batch))
    return deltas.reshape(len(deltas), -1)


def shares(inputs: Inputs, params: dict, batch: Mapping, named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The share of the largest δᵀ(JᵀHJ)δ that each direction reaches, per sentence [B].

    The largest is an eigenvalue, computed in float64 from J's rows, C vjps.
    """

    @jax.jit
    def jacobians(params, batch):
        embeddings, logits_of = embeddings_and_logits(inputs, params, batch)
        logits = jax.vmap(logits_of)(embeddings, batch)
        return logits, jax.vmap(jax.jacrev(logits_of))(embeddings, batch)

    logits, rows = (np.asarray(x, np.float64) for x in jacobians(params, batch))
    rows = rows * np.asarray(batch["attention_mask"])[:, None, :, None]
    rows = rows.reshape(*rows.shape[:2], -1)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    result = {name: np.zeros(len(p)) for name in named}
    for i, (j, q) in enumerate(zip(rows, p, strict=True)):
        hessian = 2 * (np.diag(q) - np.outer(q, q))
        best = np.linalg.eigvals(hessian @ j @ j.T).real.max()
        for name, vectors in named.items():
            d = vectors[i].astype(np.float64)
            logit_change = j @ d
            result[name][i] = logit_change @ hessian @ logit_change / (d @ vectors[i]) / best
    return result


def cosines_in_bfloat16(inputs: Inputs, params: dict, batch: Mapping) -> dict[str, np.ndarray]:
    """Cosine of the bfloat16 with the float32 direction [B]: one power step, and the paper's noise gradient."""

    def seek(dtype, method):
        @jax.jit
        def run(params, batch):
            embeddings, logits_of = embeddings_and_logits(inputs, params, batch, dtype)
            keys = jax.random.split(jax.random.key(2), len(batch["label"]))

            def one(x, example, key):
                common = {"divergence": DIVERGENCE, "radius": 1.0, "mask": example["attention_mask"]}
                if method == "power step":
                    return smart.power_iteration(lambda x: logits_of(x, example), x, key, relative=False, **common)
                # Only the ascent's gradient: a step from noise at σ that is much larger than the noise.
                return smart.projected_gradient_ascent(
                    lambda x: logits_of(x, example), x, key, step_size=1.0, noise=1e-5, projection="none", **common
                )

            return jax.vmap(one)(embeddings, batch, keys)

        deltas = np.asarray(run(params, batch), np.float64)
        return deltas.reshape(len(deltas), -1)

    result = {}
    for method in ("power step", "noise gradient, σ = 1e-5"):
        a, b = (seek(dtype, method) for dtype in (jnp.float32, jnp.bfloat16))
        result[method] = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-30)
    return result


def main() -> None:
    """Measures and writes the page."""
    inputs, start = load()
    batch = sentences(inputs)
    table, cosines = {}, {}
    for stage in STAGES:
        params = trained(inputs, start, stage)
        found = {
            f"{name} | {steps}": directions(
                inputs, params, batch, options["start"], steps, kernel=options.get("kernel", False)
            )
            for name, options in STARTS.items()
            for steps in STEPS
        }
        table[stage] = shares(inputs, params, batch, found)
        some = {name: x[:16] for name, x in batch.items()}
        cosines[stage] = cosines_in_bfloat16(inputs, params, some)
        print(stage, {name: round(float(x.mean()), 4) for name, x in table[stage].items()}, cosines[stage], flush=True)
    lines = [
        "# How good the adversary's directions are",
        "",
        "The worst small perturbation is along the top eigenvector of JᵀHJ ([SMART, explained]"
        "(smart.md#how-the-worst-step-is-found)).",
        "How close does each start come after a few power steps, and does bfloat16 change the direction?",
        "",
        "<!-- not run: takes ten minutes on two CPU cores, and writes this page -->",
        "```bash",
        "python -m benchmarks.directions",
        "```",
        "",
        f"MiniLM-L6 on {SENTENCES} sentences of rated_sst's dev split, five classes, no dropout. A column is the",
        f"number of plain updates of {BATCH_SIZE} sentences at learning rate 1e-4 before the measurement.",
        "",
        "## Share of the largest δᵀ(JᵀHJ)δ, mean (worst)",
        "",
        "The largest is the top eigenvalue, in float64, from J's five rows. 1 is the worst direction itself.",
        "The preset `bertjax_exact` is `noise` with one step. `bertjax` is `task gradient` with none, of L + μ D;",
        "here the gradient is of L alone.",
        "",
        "| start | power steps | " + " | ".join(f"{stage} updates" for stage in STAGES) + " |",
        "| --- | --- |" + " --- |" * len(STAGES),
        *(
            f"| {row} | " + " | ".join(f"{table[s][row].mean():.4f} ({table[s][row].min():.4f})" for s in STAGES) + " |"
            for row in table[STAGES[0]]
        ),
        "",
        "## Cosine of the bfloat16 with the float32 direction",
        "",
        "On 16 sentences: the mean, and the minimum of the absolute value. The sign is free.",
        "",
        "| direction | " + " | ".join(f"{stage} updates" for stage in STAGES) + " |",
        "| --- |" + " --- |" * len(STAGES),
        *(
            f"| {row} | "
            + " | ".join(f"{cosines[s][row].mean():.3f}, {np.abs(cosines[s][row]).min():.3f}" for s in STAGES)
            + " |"
            for row in cosines[STAGES[0]]
        ),
        "",
    ]
    page = Path(__file__).parent.parent / "docs" / "directions.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
