"""Compares unrolled encoder layers with a `lax.scan`, with and without rematerialisation.

    python -m benchmarks.layers
    python -m benchmarks.layers --length=128 --rounds=0        # only memory and compilation

MiniLM's width, 6, 12 and 24 layers, B = 32, plain and exact SMART. Every form is first checked to give the unrolled
form's logits. Prints compile time, step time and XLA's peak memory, and writes benchmarks/results/layers-LENGTH.json.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import NUM_STEPS, ROWS, TASK, circumstances, make_batch
from bertjax.evaluation.tables import format_rows
from bertjax.models.bert import Bert, Layer
from bertjax.models.config import BertConfig
from bertjax.models.dropout import dropout
from bertjax.models.encoder import init_params
from bertjax.models.forward import eval_step
from bertjax.parallel import peak_bytes
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

SETTINGS = ("plain", "smart exact")


class Block(nn.Module):
    """A layer as the body of a scan over the sites of its first dropout."""

    config: BertConfig

    @nn.compact
    def __call__(self, x, site, attention_mask, dropout_keys):  # noqa: D102
        return Layer(self.config, site, jnp.float32, jnp.float32, name="layer")(x, attention_mask, dropout_keys), None


class Scanned(Bert):
    """Bert with one scan over all layers but the last, which computes only [CLS]."""

    def setup(self) -> None:  # noqa: D102
        super().setup()
        length = self.config.num_hidden_layers - 1
        scan: Any = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=length,
        )
        self.stack = scan(self.config)

    def encode(self, embeddings, attention_mask, dropout_keys=None, num_positions=None):  # noqa: D102
        x = dropout(embeddings, dropout_keys, 0, self.config.hidden_dropout_prob)
        sites = 1 + self.dropouts * jnp.arange(self.config.num_hidden_layers - 1, dtype=jnp.int32)
        x, _ = self.stack(x, sites, attention_mask, dropout_keys)
        return self.layer[-1](x, attention_mask, dropout_keys, num_positions=num_positions)


class Recomputed(Bert):
    """Bert that stores only each layer's input for the backward pass."""

    def encode(self, embeddings, attention_mask, dropout_keys=None, num_positions=None):  # noqa: D102
        x = dropout(embeddings, dropout_keys, 0, self.config.hidden_dropout_prob)
        run = nn.remat(lambda layer, *inputs: layer(*inputs))
        for layer in self.layer[:-1]:
            x = run(layer, x, attention_mask, dropout_keys)
        return self.layer[-1](x, attention_mask, dropout_keys, num_positions=num_positions)


def stacked(params):
    """Unrolled parameters in the layout of `Scanned`."""
    *names, last = sorted((n for n in params if n.startswith("layer_")), key=lambda n: int(n.removeprefix("layer_")))
    rest = {name: x for name, x in params.items() if not name.startswith("layer_")}
    stack = jax.tree.map(lambda *x: jnp.stack(x), *(params[name] for name in names))
    return rest | {last: params[last], "stack": {"layer": stack}}


def main() -> None:
    """Measures every form and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    tx, key = optimizer.adamw(optimizer.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01), jax.random.key(1)
    rows = []
    for layers in (6, 12, 24):
        config = BertConfig(hidden_size=384, intermediate_size=1536, num_attention_heads=12, num_hidden_layers=layers)
        heads = {TASK.name: TASK.num_outputs}
        unrolled = init_params(jax.random.key(0), Bert(config, heads))
        batch = make_batch(options.batch, options.length, config.vocab_size)
        forms = {
            "unrolled": (Bert(config, heads), unrolled),
            "unrolled, remat": (Recomputed(config, heads), unrolled),
            "scan": (Scanned(config, heads), stacked(unrolled)),
            "scan, remat": (Bert(config, heads, remat=True), unrolled),
        }
        expected = np.asarray(eval_step(unrolled, batch, model=forms["unrolled"][0], task=TASK))
        steps, states, found = {}, {}, {}
        for name in SETTINGS:
            for form, (model, params) in forms.items():
                np.testing.assert_allclose(eval_step(params, batch, model=model, task=TASK), expected, atol=1e-4)
                step = partial(
                    train_step,
                    FinetuningSpec(model=model, tasks=(TASK,), tx=tx, settings=ROWS[name], num_steps=NUM_STEPS),
                )
                state = init_state(jax.tree.map(jnp.copy, params), tx, ROWS[name])
                start = time.perf_counter()
                lowered = jax.jit(step, donate_argnums=0).lower(state, {TASK.name: batch}, key)
                traced = time.perf_counter()
                compiled = lowered.compile()
                found[name, form] = {
                    "layers": layers,
                    "name": name,
                    "form": form,
                    "trace_seconds": round(traced - start, 2),
                    "compile_seconds": round(time.perf_counter() - traced, 2),
                    "peak_bytes": peak_bytes(compiled),
                }
                if options.rounds:
                    steps[name, form], states[name, form] = compiled, state
        times = {row: [] for row in steps}
        for _ in range(options.rounds):
            for row, step in steps.items():
                start = time.perf_counter()
                states[row], _ = step(states[row], {TASK.name: batch}, key)
                jax.block_until_ready(states[row])
                times[row].append(time.perf_counter() - start)
        for (name, form), row in found.items():
            plain = found["plain", "unrolled"]
            row["peak_memory_ratio"] = round(row["peak_bytes"] / plain["peak_bytes"], 2)
            if options.rounds:
                row["step_seconds"] = round(statistics.median(times[name, form]), 4)
                row["ratio_to_unrolled"] = round(row["step_seconds"] / statistics.median(times[name, "unrolled"]), 3)
        print(format_rows(list(found.values())), flush=True)
        rows += found.values()
    out = Path(__file__).parent / "results" / f"layers-{options.length}.json"
    out.write_text(json.dumps(circumstances() | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
