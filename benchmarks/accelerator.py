"""Examples a second on a GPU or TPU, plain and with SMART, jitted and pmapped, beside PyTorch at its fastest.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m benchmarks.accelerator
    python -m benchmarks.accelerator --models tiny --batch=4 --length=16 --rounds=2      # a trial, anywhere

Random weights and word pieces, bfloat16, MiniLM-L6 and BERT-base at B = 128, S = 128, and an epoch of SST-5 at
B = 128 in batches of like length, from the time of an update at each length. A row's utilisation is the model's own
operations, three forward passes' matrix products, over what a dense bfloat16 product of 8192 × 8192 reaches on the
same device. PyTorch, where it is installed: torch.compile, SDPA, autocast, fused AdamW; its SMART is the preset
`paper`. Prints tables and writes benchmarks/results/accelerator.json.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import peers
from benchmarks.steps import NUM_STEPS, ROWS, TASK, circumstances, make_batch
from bertjax import optim
from bertjax.bert_config import BertConfig
from bertjax.model import Bert, init_params
from bertjax.parallel import DataParallel, peak_bytes
from bertjax.report import table
from bertjax.step import init_state, train_step

MODELS = {
    "MiniLM-L6": BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6),
    "BERT-base": BertConfig(),
    "tiny": BertConfig(
        vocab_size=2000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    ),
}
SETTINGS = ("plain", "smart exact", "smart cheap", "paper")
UPDATES = 10
"""Of a measurement, so that the host runs ahead of the device as it does in training."""
SST5_BATCHES = {8: 3, 16: 14, 24: 17, 32: 16, 40: 9, 48: 5, 56: 2, 80: 1}
"""Batches of 128 of gold SST-5's 8,544 training sentences by their length (`data.batches.plan_epoch`)."""
SST5_EXAMPLES = 8544
IMPLEMENTATIONS = ("ours", "xla", "cudnn")


def model_flops(config: BertConfig, batch: int, length: int) -> float:
    """Of a plain update: the matrix products of a forward pass, thrice; the last layer in full, as users count it."""
    width, inner = config.hidden_size, config.intermediate_size
    token = 2 * (4 * width**2 + 2 * width * inner) + 4 * length * width
    return 3.0 * batch * length * config.num_hidden_layers * token


def seconds_of(run, wait, rounds: int) -> float:
    """Median time of an update over rounds of several."""
    wait(run())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(UPDATES):
            last = run()
        wait(last)
        times.append((time.perf_counter() - start) / UPDATES)
    return statistics.median(times)


def matmul_rate(size: int, rounds: int) -> float:
    """Operations a second of a dense bfloat16 product."""
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / seconds_of(lambda: product(x, x), jax.block_until_ready, rounds)


def our_update(config: BertConfig, name: str, batch, form: str):
    """A function that runs one more update and returns its scalars, and what XLA sets aside for it in bytes."""
    heads = {TASK.name: TASK.outputs}
    model = Bert(config, heads, dtype=jnp.bfloat16)
    tx = optim.adamw(optim.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01)
    state = init_state(init_params(jax.random.key(0), model), tx, ROWS[name])
    step = partial(train_step, model=model, tasks=(TASK,), tx=tx, settings=ROWS[name], num_steps=NUM_STEPS)
    parallel = DataParallel(jax.devices()[:1])
    parallel.is_single = form == "jit"  # pmap over one device, which a run would not choose
    mapped, key = parallel.map_train(step), jax.random.key(1)
    shares = jax.tree.map(jnp.asarray, {TASK.name: parallel.shard(batch)})
    holder = [parallel.replicate(state)]
    compiled = mapped.lower(holder[0], shares, key).compile()

    def run():
        holder[0], means = compiled(holder[0], shares, key)
        return means

    return run, peak_bytes(compiled)


def attention_rows(config: BertConfig, batch: int, length: int, rounds: int) -> list[dict]:
    """Forward and backward of one attention without dropout, and whether it has the tangents a power step needs."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    query, key, value = jax.random.normal(jax.random.key(0), (3, batch, length, heads, size), jnp.bfloat16)

    def ours(query, key, value):
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) / size**0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(query.dtype), value)

    rows = []
    for name in IMPLEMENTATIONS:
        attend = ours if name == "ours" else partial(jax.nn.dot_product_attention, implementation=name)
        row = {"attention": name, "batch": batch, "length": length}
        try:
            backward = jax.jit(jax.grad(lambda q, k, v, f=attend: f(q, k, v).astype(jnp.float32).sum(), (0, 1, 2)))
            run = partial(backward, query, key, value)
            row["milliseconds"] = round(1000 * seconds_of(run, jax.block_until_ready, rounds), 3)
            jax.jvp(lambda q, f=attend: f(q, key, value), (query,), (query,))
            row["tangents"] = "yes"
        except Exception as error:  # what a device or an implementation lacks is a finding here
            row["tangents" if "milliseconds" in row else "failed"] = " ".join(str(error).split())[:60]
        rows.append(row)
    return rows


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["MiniLM-L6", "BERT-base"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--matmul", type=int, default=None, help="its size; 8192, but 512 on a CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accelerator.json")
    options = parser.parse_args()
    peer_versions = peers.versions()
    peak_rate = matmul_rate(options.matmul or (512 if jax.default_backend() == "cpu" else 8192), options.rounds)
    print(f"{jax.devices()[0].device_kind}: {peak_rate / 1e12:.1f} TFLOP/s dense bfloat16")

    rows, found = [], []
    for model in options.models:
        config = MODELS[model]

        def row(name, form, length, seconds, peak, model=model, config=config):
            flops = model_flops(config, options.batch, length)
            values = {
                "name": name,
                "form": form,
                "batch": options.batch,
                "length": length,
                "dtype": "bfloat16",
                "model": model,
                "step_seconds": round(seconds, 6),
                "examples_per_second": round(options.batch / seconds, 1),
                "utilisation": round(flops / seconds / peak_rate, 3) if name == "plain" else None,
                "peak_gib": None if peak is None else round(peak / 2**30, 2),
            }
            return {key: value for key, value in values.items() if value is not None}

        def ours(name, form, length, config=config, row=row):
            run, peak = our_update(config, name, make_batch(options.batch, length, config.vocab_size), form)
            return row(name, form, length, seconds_of(run, jax.block_until_ready, options.rounds), peak)

        def theirs(name, length, config=config, row=row):
            peers.release()
            step = peers.pytorch_step(config, TASK.outputs, accelerated=True, paper=name == "paper")
            batch = make_batch(options.batch, length, config.vocab_size)
            seconds = seconds_of(partial(step, batch), peers.wait, options.rounds)
            return row(name, "PyTorch", length, seconds, peers.peak_bytes())

        here = [ours(name, form, options.length) for name in SETTINGS for form in ("jit", "pmap")]
        there = [theirs(name, options.length) for name in ("plain", "paper")] if peer_versions else []
        plain = here[0]["step_seconds"]
        for entry in (*here, *there):
            entry["ratio_to_plain"] = round(entry["step_seconds"] / plain, 2)
        print(table([*here, *there]), flush=True)

        epoch = []
        for name in ("plain", "smart cheap"):
            seconds = sum(count * ours(name, "jit", length)["step_seconds"] for length, count in SST5_BATCHES.items())
            epoch.append({"name": name, "form": "jit", "examples_per_second": round(SST5_EXAMPLES / seconds, 1)})
        if peer_versions:
            seconds = sum(count * theirs("plain", length)["step_seconds"] for length, count in SST5_BATCHES.items())
            epoch.append({"name": "plain", "form": "PyTorch", "examples_per_second": round(SST5_EXAMPLES / seconds, 1)})
        epoch = [{"epoch of": "sst5", "model": model, **entry} for entry in epoch]
        attention = attention_rows(config, options.batch, options.length, options.rounds)
        print(table(epoch), table(attention), sep="\n", flush=True)
        rows += [*here, *epoch, *({"model": model, **entry} for entry in attention)]
        found += there
        report = circumstances() | {"matmul_tflops": round(peak_rate / 1e12, 1), "rows": rows}
        report["peers"] = [entry | {"versions": peer_versions} for entry in found]
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
