"""Which perturbation scale, start and preset of SMART helps: small subsets of gold SST-5, many runs.

    python -m benchmarks.scale --data_dir=FOLDER

MiniLM-L6. Learning rate and epochs are chosen for plain fine-tuning first; then every setting of `coarse` is tried
on few seeds; the best three and plain are run on ten further seeds. So many settings fit only on 1% of the sentences.
The last stage is then run again on 5%, with the same three settings, and with learning rate and epochs chosen anew
for plain. On 10%, with the same learning rate and epochs, the default preset is compared with its cheap mode. All
choices are made on a part carved from the training file; the dev file is looked at by the last stages alone, after the
last epoch. A seed draws its own training subset, head, order and masks, the same for every setting,
so that differences are paired.

Every run adds a line to benchmarks/results/scale.jsonl; a rerun goes on where it was cut off. Then
`python -m benchmarks.scale_report` writes docs/scale.md.
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from bertjax import optim, smart
from bertjax.config import RunConfig
from bertjax.data.batches import steps_per_epoch, train_batches
from bertjax.data.text import Examples
from bertjax.evaluation import Predictor
from bertjax.inputs import load_inputs
from bertjax.parallel import DataParallel
from bertjax.pretrained import STARTER, load_pretrained, with_heads
from bertjax.step import eval_step, init_state, train_step

RESULTS = Path(__file__).parent / "results" / "scale.jsonl"
SENTENCES = {"plain": 85, "coarse": 85, "final": 85, "larger plain": 427, "larger final": 427, "modes final": 854}
"""By stage: 1%, 5% and 10% of the training file."""
VALIDATION_SENTENCES = 600
BATCH_SIZE, MAX_LENGTH, EDGES = 16, 48, (24, 48)
RATES, EPOCHS, LARGER_EPOCHS = (1e-4, 2e-4, 4e-4), (5, 10), (3, 6)
CHOICE_SEEDS, FINAL_SEEDS = (100, 101, 102), tuple(range(10))
COARSE_SEEDS, MODES_SEEDS = CHOICE_SEEDS[:2], FINAL_SEEDS[:5]
NUMBERS = ("weight", "radius", "step_size", "noise", "bregman_weight", "decay")
PLAIN = smart.preset("none")
MODES = {
    "plain": PLAIN,
    "exact": smart.preset("bertjax_exact"),
    "cheap": smart.preset("bertjax"),
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run: what is trained how, and what it is judged on ("validation" or "dev")."""

    stage: str
    name: str
    seed: int
    learning_rate: float
    epochs: int
    settings: smart.SmartSettings

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others."""
        return self.stage, self.name, self.seed


def coarse() -> dict[str, smart.SmartSettings]:
    """The settings tried, by name."""
    power = smart.SmartSettings(weight=1.0)
    found = {f"R_s, radius {r:g}": dataclasses.replace(power, radius=r) for r in (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)}
    power = dataclasses.replace(power, radius=0.1)
    found |= {f"R_s, radius 0.1, λ = {w}": dataclasses.replace(power, weight=float(w)) for w in (3, 5)}
    found["R_s, radius 0.1, ℓ∞"] = dataclasses.replace(power, norm="linf")
    found["R_s, radius 0.1, output start"] = dataclasses.replace(power, start="output", num_steps=0)
    found["R_s, radius 0.1, task gradient"] = dataclasses.replace(
        power, start="task_gradient", num_steps=0, clean_gradient=False
    )
    bregman = smart.SmartSettings(bregman_weight=1.0)
    found |= {f"D, horizon {h:g}": dataclasses.replace(bregman, horizon=h) for h in (0.03, 0.1, 0.3)}
    found["D, β 0.99 then 0.999"] = bregman
    found["R_s and D, radius 0.1, horizon 0.1"] = dataclasses.replace(power, bregman_weight=1.0, horizon=0.1)
    names = ("paper", "mtdnn_2020", "mtdnn_head", "sift", "vat", "r3f", "rdrop")
    return found | {f"preset {name}": smart.preset(name) for name in names}


def plain(stage: str, epoch_counts: Sequence[int], seeds: Sequence[int]) -> list[Trial]:
    """Plain fine-tuning at every learning rate and number of epochs."""
    return [
        Trial(stage, f"plain, {rate:g}, {epochs} epochs", seed, rate, epochs, PLAIN)
        for seed in seeds
        for rate in RATES
        for epochs in epoch_counts
    ]


@functools.cache
def _setting_up(data_dir: str):
    """Everything that all runs of a worker share."""
    config = RunConfig(task="sst5", data_dir=data_dir, max_length=MAX_LENGTH)
    inputs = load_inputs(config, STARTER, ("train", "dev"))
    architecture, weights = load_pretrained(inputs.folder)
    order = np.random.default_rng(0).permutation(len(inputs.data["sst5"].examples["train"]))
    step = functools.partial(eval_step, model=inputs.model, task=inputs.tasks[0])
    predictor = Predictor(step, DataParallel(jax.devices()[:1]), architecture.pad_token_id)
    return inputs, inputs.data["sst5"].examples, architecture, weights, order, predictor


def subset(examples: Examples, rows: np.ndarray) -> Examples:
    """The examples at some places, in their order."""
    pick = lambda values: [values[i] for i in rows]  # noqa: E731
    return Examples(pick(examples.ids), pick(examples.input_ids), pick(examples.token_type_ids), examples.labels[rows])


@functools.cache
def _compiled(data_dir: str, structure: smart.SmartSettings, num_steps: int):
    """A step whose numbers are arguments, so that one compilation serves every value."""
    inputs, *_ = _setting_up(data_dir)

    def step(state, batch, key, numbers: Mapping[str, jax.Array], rate: jax.Array):
        return train_step(
            state,
            batch,
            key,
            model=inputs.model,
            tasks=inputs.tasks,
            tx=optim.adamw(optim.linear_schedule(rate, num_steps, 0.1), 0.01),
            settings=dataclasses.replace(structure, **numbers),
            num_steps=num_steps,
        )

    return jax.jit(step, donate_argnums=0)


def run(trial: Trial, data_dir: str) -> dict:
    """Trains and evaluates; what a line of the results holds."""
    start = time.perf_counter()
    inputs, examples, architecture, weights, order, predictor = _setting_up(data_dir)
    pool = order[VALIDATION_SENTENCES:]
    train = subset(
        examples["train"], np.random.default_rng((trial.seed, 1)).permutation(pool)[: SENTENCES[trial.stage]]
    )
    num_steps = trial.epochs * steps_per_epoch(train.lengths, BATCH_SIZE, EDGES)
    settings = trial.settings
    if settings.horizon is not None:
        settings = dataclasses.replace(settings, decay=smart.anchor_decay(settings, num_steps), horizon=None)
    numbers = {name: getattr(settings, name) for name in NUMBERS}
    numbers = {name: value for name, value in numbers.items() if isinstance(value, float) and value != 0}
    structure = dataclasses.replace(settings, **dict.fromkeys(numbers, 0.5))
    head_key, step_key = jax.random.split(jax.random.key(trial.seed))
    params = jax.tree.map(jax.numpy.array, with_heads(weights, architecture, inputs.model.heads, head_key))
    state = init_state(params, optim.adamw(optim.linear_schedule(1.0, num_steps, 0.1), 0.01), settings)
    step = _compiled(data_dir, structure, num_steps)
    batches = train_batches(
        train,
        batch_size=BATCH_SIZE,
        edges=EDGES,
        seed=trial.seed,
        epochs=trial.epochs,
        pad_id=architecture.pad_token_id,
    )
    log = []
    for batch in batches:
        state, means = step(state, {"sst5": batch}, step_key, numbers, trial.learning_rate)
        log.append({name: float(value) for name, value in means.items()})
    is_final = trial.stage.endswith("final")
    rows = order[:VALIDATION_SENTENCES]
    judged = examples["dev"] if is_final else subset(examples["train"], rows)
    logits = predictor.predict(state.params, judged, batch_size=64, edges=EDGES)
    scores = inputs.tasks[0].metrics(logits, judged.labels)
    last = log[-len(log) // 4 :]
    return {
        "stage": trial.stage,
        "name": trial.name,
        "seed": trial.seed,
        "learning_rate": trial.learning_rate,
        "epochs": trial.epochs,
        "steps": num_steps,
        "judged_on": "dev" if is_final else "validation",
        **{name: round(value, 5) for name, value in scores.items()},
        "last_quarter": {name: float(f"{np.mean([entry[name] for entry in last]):.4g}") for name in last[0]},
        "correct": "".join(map(str, (logits.argmax(-1) == judged.labels).astype(int))) if is_final else None,
        "seconds": round(time.perf_counter() - start, 1),
    }


def read_results() -> list[dict]:
    """The lines so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def mean_accuracy(records: Sequence[Mapping], stage: str) -> dict[tuple[str, float, int], float]:
    """Of each setting of a stage over its seeds, best first; by name, learning rate and epochs."""
    groups: dict[tuple[str, float, int], list[float]] = {}
    for record in records:
        if record["stage"] == stage:
            groups.setdefault((record["name"], record["learning_rate"], record["epochs"]), []).append(
                record["accuracy"]
            )
    means = {key: statistics.mean(values) for key, values in groups.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def _start_worker(count) -> None:
    with count.get_lock():
        place = count.value
        count.value += 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[place % len(cores)]})  # a core each: XLA then starts one thread
    os.nice(19)


def _run_stage(pool, trials: Sequence[Trial], data_dir: str) -> list[dict]:
    records = read_results()
    done = {(record["stage"], record["name"], record["seed"]): record for record in records}
    for trial in trials:
        record = done.get(trial.key)
        if record and (record["learning_rate"], record["epochs"]) != (trial.learning_rate, trial.epochs):
            raise SystemExit(
                f"{RESULTS}: {trial.key} is there with another rate or number of epochs; move the file away"
            )
    todo = [trial for trial in trials if trial.key not in done]
    for record in pool.imap_unordered(functools.partial(run, data_dir=data_dir), todo):
        with RESULTS.open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(*(record[k] for k in ("stage", "name", "seed", "accuracy", "loss", "seconds")), flush=True)
    return read_results()


def main() -> None:
    """Runs what is not yet done of all stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers, _start_worker, (context.Value("i", 0),)) as pool:
        run_stage = functools.partial(_run_stage, pool, data_dir=options.data_dir)
        (_, rate, epochs), *_ = mean_accuracy(run_stage(plain("plain", EPOCHS, CHOICE_SEEDS)), "plain")
        trials = [Trial("coarse", n, seed, rate, epochs, s) for seed in COARSE_SEEDS for n, s in coarse().items()]
        best = [n for n, _, _ in mean_accuracy(run_stage(trials), "coarse")][:3]
        chosen = {"plain": PLAIN} | {name: coarse()[name] for name in best}
        run_stage([Trial("final", n, seed, rate, epochs, s) for seed in FINAL_SEEDS for n, s in chosen.items()])
        larger = mean_accuracy(run_stage(plain("larger plain", LARGER_EPOCHS, COARSE_SEEDS)), "larger plain")
        (_, rate, epochs), *_ = larger
        run_stage([Trial("larger final", n, seed, rate, epochs, s) for seed in FINAL_SEEDS for n, s in chosen.items()])
        run_stage([Trial("modes final", n, seed, rate, epochs, s) for seed in MODES_SEEDS for n, s in MODES.items()])


if __name__ == "__main__":
    main()
