"""Share of padding in batches, and the time of an epoch of gold SST-5 against Transformers' usual loop.

    python -m benchmarks.epoch --data_dir=FOLDER

Plain fine-tuning of MiniLM-L6, batch 32. bertjax: batches of examples of similar length, padded to one of at most eight
lengths. Transformers: PyTorch, eager, batches in random order, each padded to its longest example. The two loops take
turns of a dozen updates, so that their ratio holds on a noisy machine. Also measured: the host's time to prepare a
batch, which overlaps with the update before. Prints the results and writes benchmarks/results/epoch.json.
"""

import argparse
import itertools
import json
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from benchmarks.common import ROWS, circumstances
from bertjax.config import RunConfig
from bertjax.data.batching import eval_batches, real_token_fraction, steps_per_epoch, train_batches
from bertjax.data.pipeline import load_inputs
from bertjax.data.tokenize import TokenizedExamples
from bertjax.evaluation.tables import format_rows
from bertjax.parallel import CompiledByShape, DataParallel
from bertjax.pretrained import STARTER, load_pretrained, with_heads
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

BATCH_SIZE, UPDATES_PER_TURN = 32, 12
MAX_LENGTHS = {"sst5": 128, "quora": 128, "sts": 128, "cfimdb": 512}
"""Maximum number of tokens by task; only CFIMDB's longest reviews are truncated."""


def padded_to_longest(examples: TokenizedExamples, seed: int):
    """Shuffled batches, each padded to its longest example: a DataLoader with Transformers' padding collator."""
    order = np.random.default_rng(seed).permutation(len(examples))
    for rows in np.array_split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
        batch = take(examples, rows)
        yield from eval_batches(batch, batch_size=len(rows), bucket_boundaries=(int(batch.lengths.max()),))


def take(examples: TokenizedExamples, rows: np.ndarray) -> TokenizedExamples:
    """The examples at `rows`."""
    columns = (examples.ids, examples.input_ids, examples.token_type_ids)
    return TokenizedExamples(*([column[i] for i in rows] for column in columns), examples.labels[rows])


def main() -> None:
    """Counts tokens, runs both epochs and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    options = parser.parse_args()
    tokens, shapes = {}, {}
    for name, max_length in MAX_LENGTHS.items():
        config = RunConfig(task=name, data_dir=options.data_dir, on_bad_row="skip", max_length=max_length)
        inputs = load_inputs(config, STARTER, ("train", "dev"))
        part = inputs.data[name]
        tokens[name] = round(real_token_fraction(part.examples["train"].lengths, BATCH_SIZE, part.bucket_boundaries), 4)
        shapes[name] = list(part.bucket_boundaries)
        if name == "sst5":
            train, bucket_boundaries, model, task = (
                part.examples["train"],
                part.bucket_boundaries,
                inputs.model,
                part.task,
            )
    print(
        format_rows([{"task": n, "real tokens": tokens[n], "lengths": ", ".join(map(str, shapes[n]))} for n in tokens])
    )

    architecture, weights = load_pretrained(STARTER)
    params = with_heads(weights, architecture, model.heads, jax.random.key(0))
    num_steps = steps_per_epoch(train.lengths, BATCH_SIZE, bucket_boundaries)
    tx = optimizer.adamw(optimizer.linear_schedule(1e-4, num_steps, 0.1), 0.01)
    parallel, key = DataParallel(jax.devices()[:1]), jax.random.key(1)
    step = CompiledByShape(
        parallel.map_train(
            partial(
                train_step,
                FinetuningSpec(model=model, tasks=(task,), tx=tx, settings=ROWS["plain"], num_steps=num_steps),
            )
        )
    )
    state = init_state(jax.tree.map(jnp.copy, params), tx, ROWS["plain"])
    ours = train_batches(train, batch_size=BATCH_SIZE, bucket_boundaries=bucket_boundaries, seed=0, epochs=1)
    for batch in train_batches(train, batch_size=BATCH_SIZE, bucket_boundaries=bucket_boundaries, seed=0, epochs=1):
        step.compile(state, {task.name: batch}, key)
    theirs, their_step = padded_to_longest(train, 0), peers.pytorch_step(architecture, task.num_outputs)

    seconds = {"ours": 0.0, "theirs": 0.0}
    host_seconds, padded = [], 0
    while turn := list(itertools.islice(theirs, UPDATES_PER_TURN)):
        start = time.perf_counter()
        for batch in turn:
            their_step(batch)
        seconds["theirs"] += time.perf_counter() - start
        padded += sum(batch["input_ids"].size for batch in turn)
        start = time.perf_counter()
        for _ in turn:
            batch_start = time.perf_counter()
            batch = {task.name: parallel.shard(next(ours))}
            host_seconds.append(time.perf_counter() - batch_start)
            state, _ = step(state, batch, key)
        jax.block_until_ready(state)
        seconds["ours"] += time.perf_counter() - start
    real = int(train.lengths.sum())
    rows = [
        {
            "name": name,
            "batch": BATCH_SIZE,
            "dtype": "float32",
            "model": STARTER,
            "epoch_seconds": round(seconds[key], 2),
            "real_tokens_per_second": round(real / seconds[key]),
            "real_token_fraction": fraction,
        }
        for name, key, fraction in (
            ("bertjax", "ours", tokens["sst5"]),
            ("Transformers on PyTorch, eager", "theirs", round(real / padded, 4)),
        )
    ]
    print(format_rows(rows))
    ratio = seconds["theirs"] / seconds["ours"]
    share = sum(host_seconds) / seconds["ours"]
    print(
        f"Transformers' epoch takes {ratio:.2f} times ours; the host prepares batches in {share:.2%} of our time, "
        "overlapping with updates"
    )
    report = circumstances() | {
        "rows": rows[:1],
        "tokens": tokens,
        "lengths": shapes,
        "host_share": round(share, 5),
        "peers": [rows[1] | {"versions": peers.versions(), "ratio": round(ratio, 2)}],
    }
    (Path(__file__).parent / "results" / "epoch.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
