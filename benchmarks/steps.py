"""Measures what a regularised update costs relative to plain fine-tuning: time, operations and memory.

    python -m benchmarks.steps
    python -m benchmarks.steps --chart        # only draws, from existing results
    python -m benchmarks.steps --families     # plain and SMART for every family, at MiniLM's size

MiniLM-L6, AdamW, dropout on, B = S = 32. The rows, and Transformers' update on PyTorch if both are installed, take
turns in one process, so that ratios of their medians hold on a noisy machine. Operations and memory are XLA's
estimates. Prints a table, writes benchmarks/results/steps.json and draws docs/steps.png.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import peers
from benchmarks.common import EXACT, NUM_STEPS, ROWS, TASK, circumstances, make_batch
from bertjax import smart
from bertjax.evaluation.tables import format_rows
from bertjax.models.dropout import example_keys
from bertjax.models.encoder import init_params
from bertjax.models.families import FAMILIES, build_encoder
from bertjax.models.forward import as_smart_model
from bertjax.parallel import peak_bytes
from bertjax.pretrained import STARTER, load_pretrained, with_heads
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import TrainState, init_state

CHART = Path(__file__).parents[1] / "docs" / "steps.png"
COMPOSED = ("R_s", "D", "smart exact")
SHARES = {
    "smart cheap share=1/2": smart.preset("bertjax", share=0.5),
    "smart cheap share=1/4": smart.preset("bertjax", share=0.25),
    "smart exact share=1/2": smart.preset("bertjax_exact", share=0.5),
}
PEER = "Transformers"
FAMILY_ROWS = ("plain", "D", "smart cheap", "smart exact")
MINILM_SIZE = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
OWN_SIZES = {
    "electra": {"embedding_size": 128},
    # As in DeBERTa-v3.
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ("c2p", "p2c"),
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    # A gated MLP has three kernels: as many parameters as two of MiniLM's.
    "modernbert": {"intermediate_size": 1024, "pad_token_id": 0},
}


def loss_step(state, batches, key, *, model, tx, settings):
    """The same update with R_s and D added in the loss, as in the guides."""
    batch, cut = batches[TASK.name], as_smart_model(model, TASK)
    keys = example_keys(key, state.step, batch["index"])

    def logits(params, x):
        return cut.logits(params, x, batch, keys)

    def loss_fn(params):
        x = cut.embed(params, batch)
        clean_logits = logits(params, x)
        loss = TASK.loss(clean_logits, batch["label"])
        loss += smart.smoothness(
            lambda x: logits(params, x),
            x,
            keys,
            divergence=TASK.divergence,
            mask=batch["attention_mask"],
            settings=settings,
            clean_logits=clean_logits,
        )
        loss += TASK.divergence(clean_logits, logits(state.anchor, cut.embed(state.anchor, batch)))
        return jnp.mean(loss)

    updates, opt_state = tx.update(jax.grad(loss_fn)(state.params), state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = smart.value_at(smart.anchor_decay(settings, NUM_STEPS), state.step)
    anchor = smart.update_anchor(state.anchor, params, decay)
    return TrainState(state.step + 1, params, opt_state, anchor), {}


def composed_step(state, batches, key, *, model, tx):
    """The same update with optax: the task's gradient goes through `smart.add_smart`, then through the optimizer."""
    batch, cut = batches[TASK.name], as_smart_model(model, TASK)
    keys = example_keys(key, state.step, batch["index"])

    def terms_fn(params, anchor, settings):
        return smart.smart_terms(
            cut,
            params,
            anchor,
            batch,
            keys,
            keys,
            divergence=TASK.divergence,
            settings=settings,
            mask=batch["attention_mask"],
            loss_fn=lambda logits, batch: TASK.loss(logits, batch["label"]),
        )

    # The plain loss written like the terms, so that XLA can merge the clean passes.
    gradient = jax.grad(lambda params: jnp.mean(terms_fn(params, None, smart.preset("none")).loss))(state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params, terms_fn=terms_fn)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), {}


def main() -> None:
    """Measures every row and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--chart", action="store_true")
    parser.add_argument("--families", action="store_true")
    options = parser.parse_args()
    name = "families" if options.families else "steps"
    options.out = options.out or Path(__file__).parent / "results" / f"{name}.json"
    if options.families:
        report_families(options)
        return
    if options.chart:
        chart(json.loads(options.out.read_text()), CHART)
        return

    architecture, weights = load_pretrained(STARTER)
    params = with_heads(weights, architecture, {TASK.name: TASK.num_outputs}, jax.random.key(0))
    model = build_encoder(architecture, {TASK.name: TASK.num_outputs})
    adamw = optimizer.adamw(optimizer.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01)
    batch = make_batch(options.batch, options.length, architecture.vocab_size)
    batches, key = {TASK.name: batch}, jax.random.key(1)

    steps, states = {}, {}
    for name, settings in (ROWS | SHARES).items():
        step = partial(
            train_step, FinetuningSpec(model=model, tasks=(TASK,), tx=adamw, settings=settings, num_steps=NUM_STEPS)
        )
        state = init_state(jax.tree.map(jnp.copy, params), adamw, settings)
        add(name, step, state, batches, key, steps, states)
    for name, replaces in [*((name, False) for name in COMPOSED), ("smart exact", True)]:
        tx = optax.chain(smart.add_smart(ROWS[name], num_steps=NUM_STEPS, replace_updates=replaces), adamw)
        copied = jax.tree.map(jnp.copy, params)
        state = TrainState(jnp.zeros((), jnp.int32), copied, tx.init(copied), None)
        row = f"{name}, composed" + (", replacing" if replaces else "")
        add(row, partial(composed_step, model=model, tx=tx), state, batches, key, steps, states)
    state = init_state(jax.tree.map(jnp.copy, params), adamw, EXACT)
    step = partial(loss_step, model=model, tx=adamw, settings=EXACT)
    add("smart exact, in the loss", step, state, batches, key, steps, states)
    flops = {name: step.cost_analysis()["flops"] for name, step in steps.items()}
    # XLA counts the more expensive branch of a condition; every second update costs as much as D.
    flops["smart cheap every=2"] = (flops["smart cheap"] + flops["D"]) / 2
    memory = {name: peak_bytes(step) for name, step in steps.items()}
    peer_versions = peers.versions()
    peer_step = peers.pytorch_step(architecture, TASK.num_outputs) if peer_versions else None

    median = take_turns(steps, states, batches, key, options.rounds, peer_step)
    rows = [
        {
            "name": name,
            "batch": options.batch,
            "length": options.length,
            "dtype": "float32",
            "model": STARTER,
            "step_seconds": round(median[name], 4),
            "ratio_to_plain": round(median[name] / median["plain"], 2),
            "flops_ratio_to_plain": round(flops[name] / flops["plain"], 2),
            "peak_memory_ratio": round(memory[name] / memory["plain"], 2),
        }
        for name in steps
    ]
    peer_rows = []
    if peer_step is not None:
        about = {"name": "Transformers on PyTorch, eager", "versions": peer_versions}
        ratio = round(median[PEER] / median["plain"], 2)
        peer_rows.append(about | {"step_seconds": round(median[PEER], 4), "ratio_to_plain": ratio})
    columns = ("name", "step_seconds", "ratio_to_plain", "flops_ratio_to_plain", "peak_memory_ratio")
    print(format_rows([{k: row[k] for k in columns if k in row} for row in [*rows, *peer_rows]]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = circumstances() | {"rows": rows, "peers": peer_rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    chart(report, CHART)


def report_families(options) -> None:
    """Measures updates of every family at MiniLM's size against Transformers on PyTorch, eager."""
    rows, versions = [], peers.versions()
    for name, family in FAMILIES.items():
        config = family.config(**MINILM_SIZE | OWN_SIZES.get(name, {}))
        model = build_encoder(config, {TASK.name: TASK.num_outputs})
        params = init_params(jax.random.key(0), model)
        adamw = optimizer.adamw(optimizer.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01)
        batches, key = {TASK.name: make_batch(options.batch, options.length, config.vocab_size)}, jax.random.key(1)
        steps, states = {}, {}
        for row in FAMILY_ROWS:
            spec = FinetuningSpec(model=model, tasks=(TASK,), tx=adamw, settings=ROWS[row], num_steps=NUM_STEPS)
            state = init_state(jax.tree.map(jnp.copy, params), adamw, ROWS[row])
            add(row, partial(train_step, spec), state, batches, key, steps, states)
        peer_step = peers.pytorch_step(config, TASK.num_outputs) if versions else None
        median = take_turns(steps, states, batches, key, options.rounds, peer_step)
        rows.append(
            {
                "family": name,
                "parameters": sum(x.size for x in jax.tree.leaves(params)),
                "plain_seconds": round(median["plain"], 4),
                **({"plain_to_transformers": round(median["plain"] / median[PEER], 2)} if versions else {}),
                **{f"{row}_to_plain": round(median[row] / median["plain"], 2) for row in FAMILY_ROWS[1:]},
            }
        )
        print(rows[-1], flush=True)
    print(format_rows(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"batch": options.batch, "length": options.length, "dtype": "float32", "size": MINILM_SIZE}
    options.out.write_text(json.dumps(circumstances() | {"peer": versions} | about | {"rows": rows}, indent=1) + "\n")


def take_turns(steps, states, batches, key, rounds, peer_step=None):
    """The median seconds of each compiled update, and of the peer's as `PEER`, taking turns."""
    seconds = {name: [] for name in (*steps, *([PEER] if peer_step else []))}
    for _ in range(rounds):
        for name in seconds:
            start = time.perf_counter()
            # Two updates, so that `every=2` includes one of each kind.
            for _ in range(2):
                if name == PEER:
                    peer_step(batches[TASK.name])
                else:
                    states[name], _ = steps[name](states[name], batches, key)
            jax.block_until_ready(states.get(name))
            seconds[name].append((time.perf_counter() - start) / 2)
    return {name: statistics.median(times) for name, times in seconds.items()}


def chart(report, path) -> None:
    """Draws each row's time and, if known, floating-point operations relative to plain."""
    rows = [*report["rows"], *report["peers"]][::-1]
    figure = Figure(figsize=(9, 0.42 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for offset, name, label in ((0.19, "ratio_to_plain", "time"), (-0.19, "flops_ratio_to_plain", "operations (XLA)")):
        known = [(place + offset, row[name]) for place, row in enumerate(rows) if name in row]
        bars = axes.barh(*zip(*known, strict=True), height=0.36, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.axvline(1, color="grey", linewidth=0.8)
    first = report["rows"][0]
    about = f"{first['model']}, {first['dtype']}, {first['batch']} × {first['length']} tokens"
    axes.set(title=f"An update against plain fine-tuning: {about}", xlim=(0, 4.1))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=120)


def add(name, step, state, batches, key, steps, states) -> None:
    """Compiles a row and adds it to `steps` and `states`."""
    steps[name] = jax.jit(step, donate_argnums=0).lower(state, batches, key).compile()
    states[name] = state


if __name__ == "__main__":
    main()
