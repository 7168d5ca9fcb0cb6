"""Profiles where the time of an update goes: matrix products, passes over the word embeddings, the rest.

    python -m benchmarks.profile

MiniLM-L6, float32, B = S = 32, from XLA's trace of every operation on a CPU. Parallel work counts once for each
processor. Prints percentages of the processors' busy time, for some rows of `benchmarks.steps`.
"""

import collections
import re
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.common import NUM_STEPS, ROWS, TASK, make_batch
from bertjax.evaluation.tables import format_rows
from bertjax.models.families import build_encoder
from bertjax.pretrained import STARTER, load_pretrained, with_heads
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

NAMES = ("plain", "D", "smart exact", "smart cheap")
UPDATES = 5
KINDS = ("matrix products", "passes over word embeddings", "all else")


def main() -> None:
    """Traces and prints."""
    architecture, weights = load_pretrained(STARTER)
    params = with_heads(weights, architecture, {TASK.name: TASK.num_outputs}, jax.random.key(0))
    model, key = build_encoder(architecture, {TASK.name: TASK.num_outputs}), jax.random.key(1)
    tx = optimizer.adamw(optimizer.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01)
    batches = {TASK.name: make_batch(32, 32, architecture.vocab_size)}
    rows = []
    for name in NAMES:
        step = partial(
            train_step, FinetuningSpec(model=model, tasks=(TASK,), tx=tx, settings=ROWS[name], num_steps=NUM_STEPS)
        )
        state = init_state(jax.tree.map(jnp.copy, params), tx, ROWS[name])
        compiled = jax.jit(step, donate_argnums=0).lower(state, batches, key).compile()
        state, _ = compiled(state, batches, key)
        jax.block_until_ready(state)
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(UPDATES):
                    state, _ = compiled(state, batches, key)
                jax.block_until_ready(state)
            busy = busy_seconds(folder, kinds(compiled.as_text(), architecture.vocab_size))
        total = sum(busy.values())
        shares = {kind: f"{100 * busy[kind] / total:.1f}" for kind in KINDS}
        rows.append({"name": name, "busy seconds": round(total / UPDATES, 3)} | shares)
    print(format_rows(rows))


def kinds(program: str, vocab_size: int) -> dict[str, str]:
    """The kind of each instruction of a compiled program, by instruction name."""
    kind_of = {}
    for name, result in re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)", program, re.MULTILINE):
        if re.match(r"(ynn|dot|convolution|onednn)", name):
            kind_of[name] = "matrix products"
        elif f"[{vocab_size}," in result.partition("(")[0] + result[:200]:
            kind_of[name] = "passes over word embeddings"
        else:
            kind_of[name] = "all else"
    return kind_of


def busy_seconds(folder: str, kind_of: dict[str, str]) -> collections.Counter:
    """Busy seconds by kind, over all processors."""
    (path,) = Path(folder).rglob("*.xplane.pb")
    busy = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kind_of:
                    busy[kind_of[event.name]] += event.duration_ns / 1e9
    return busy


if __name__ == "__main__":
    main()
