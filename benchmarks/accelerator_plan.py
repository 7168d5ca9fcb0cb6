"""Rows of the accelerator benchmark, the most important first, each with the seconds it is expected to take."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import accelerator_checks as checks
from benchmarks import peers
from benchmarks.accelerator_updates import (
    CONFIGS,
    IMPLEMENTATIONS,
    MEASURE_SECONDS,
    Update,
    attention,
    matmul_rate,
    median_seconds,
    model_flops,
    random_params,
)
from benchmarks.common import TASK, circumstances, make_batch
from benchmarks.timed_rows import Results, Row, run_rows

FORWARDS = {"plain": 3, "smart cheap": 7, "smart exact": 9, "paper": 9}
"""Forward-equivalents of an update. Compile time is about proportional to them."""
SETUP_SECONDS = {"jax": 2.0, "pytorch": 20.0}
"""Expected: JAX sets up parameters, optimizer state and small programs; PyTorch is imported and starts its compiler."""
COMPILE_SECONDS = {"jax": 0.4, "pytorch": 0.5}
"""Expected for one layer and one forward-equivalent, by XLA on a GPU and by torch.compile."""
EXPECTED_UTILISATION = 0.2
ASSUMED_RATE = 1e12
"""Operations per second, if the matrix product has failed."""
SST5_BATCHES = {8: 3, 16: 14, 24: 17, 32: 16, 40: 9, 48: 5, 56: 2, 80: 1}
"""Batches of 128 of gold SST-5's 8,544 training sentences by their length (`data.batching.plan_epoch`)."""
SST5_BATCH, SST5_EXAMPLES = 128, 8544
SST5_LENGTHS = (8, 32, 80)
"""Lengths measured; the others are interpolated."""


def run(options: argparse.Namespace, results: Results, deadline: float) -> None:
    """Measures and prints the rows that fit before the deadline, then the goals."""
    plan, about = Plan(options), circumstances()
    results.header |= about | {"peer_versions": peers.versions()}
    results.summarize = lambda: {"goals": plan.goals()}
    print(f"{about['machine']['device']}, JAX {about['versions']['jax']}; results are in {results.path}", flush=True)
    rows = list(plan.rows())
    for place, row in enumerate(rows):
        if any(text in row.name for text in options.skip):
            rows[place] = dataclasses.replace(row, unavailable="by --skip")
    run_rows(rows, results, deadline)
    for goal in plan.goals():
        verdict = {None: "not measured", True: "met", False: "MISSED"}[goal["met"]]
        value = "" if goal["met"] is None else f"{goal['value']}, "
        print(f"goal: {goal['goal']}: {value}{verdict}")
    missed = [entry["row"] for entry in results.sections.get("checks", ()) if not entry["passed"]]
    for title, names in (("checks missed", missed), ("rows failed", results.failed), ("left out", results.left_out)):
        print(f"{title}: {'; '.join(names) or 'none'}")


class Plan:
    """The rows of one run, and the state they share.

    Attributes:
      main: the model of most rows: the first on the command line.
      small: the model of checks that need no large model: the last on the command line.
    """

    def __init__(self, options: argparse.Namespace):
        """Takes the command line."""
        self.options = options
        self.main, self.small = options.models[0], options.models[-1]
        self._rate: float | None = None
        self._params: dict[str, Any] = {}
        self._kept: dict[tuple[str, str], Update] = {}
        self._seconds: dict[tuple[str, str, str], float] = {}  # per update, by model, name and form

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        size = self.options.batch, self.options.length
        yield Row("dense bfloat16 product", "matmul", "matmul", lambda: 2.0, self.matmul)
        for model in reversed(self.options.models):
            for dtype in checks.LOGIT_LIMITS:
                yield self._check(f"logits against the CPU, {model}, {dtype}", model, 2, checks.logits, dtype)
        yield self._check(f"bfloat16 direction, {self.main}", self.main, 8, checks.direction)
        yield self._check(f"jit against pmap, {self.small}", self.small, 14, checks.jit_against_pmap)
        yield Row(
            f"{checks.UPDATES} updates, {self.small}, smart cheap",
            "checks",
            "update",
            self._prediction(self.small, FORWARDS["smart cheap"], updates=checks.UPDATES),
            self.fifty_updates,
        )
        for name, form in (("plain", "jit"), ("smart cheap", "jit"), ("smart exact", "jit"), ("plain", "pmap")):
            yield self._update(self.main, name, form)
        yield from (self._update(self.main, name, "PyTorch") for name in ("plain", "paper"))
        for model in self.options.models[1:]:
            yield from (self._update(model, name, "jit") for name in ("plain", "smart cheap"))
        for model in self.options.models:
            for name in IMPLEMENTATIONS:
                measure = partial(attention, CONFIGS[model], name, *size, self.options.rounds)
                about = {"model": model, "name": name, "batch": size[0], "length": size[1]}
                yield Row(f"attention, {model}, {name}", "attention", "attention", lambda: 3.0, measure, about)
        for model in self.options.models:
            for name in ("plain", "smart cheap"):
                predict = self._prediction(model, FORWARDS[name] * len(SST5_LENGTHS))
                measure = partial(self.epoch, model, name)
                about = {"model": model, "name": name, "form": "jit", "dtype": "bfloat16", "batch": SST5_BATCH}
                row = f"epoch of SST-5, interpolated, {model}, {name}"
                yield Row(row, "epochs", "update", predict, measure, about)

    def _check(self, row: str, model: str, forwards: int, check: Callable[..., Any], *rest: Any) -> Row:
        def measure() -> dict[str, Any]:
            return check(CONFIGS[model], self.params(model), self.options.length, *rest)

        return Row(row, "checks", "check", self._prediction(model, forwards, batch=checks.BATCH), measure)

    def _update(self, model: str, name: str, form: str) -> Row:
        row = f"{model}, {name}, {form}"
        about = {"model": model, "name": name, "form": form, "dtype": "bfloat16"}
        about |= {"batch": self.options.batch, "length": self.options.length}
        if form == "PyTorch":
            predict = self._prediction(model, FORWARDS[name], by="pytorch")
            measure = partial(self.peer_update, model, name)
            unavailable = "" if peers.versions() else f"{' and '.join(peers.PACKAGES)} are not installed"
            return Row(row, "peers", "pytorch", predict, measure, about, unavailable)
        predict = self._prediction(model, FORWARDS[name])
        measure = partial(self.our_update, model, name, form)

        def predict_unless_compiled() -> float:
            return MEASURE_SECONDS if form == "jit" and (model, name) in self._kept else predict()

        return Row(row, "rows", "update", predict_unless_compiled, measure, about)

    def _prediction(
        self, model: str, forwards: int, *, batch: int | None = None, by: str = "jax", updates: int = 3
    ) -> Callable[[], float]:
        """Predicts the seconds to compile an update, run it `updates` times and then measure it."""
        config = CONFIGS[model]
        flops = forwards * model_flops(config, batch or self.options.batch, self.options.length)

        def predict() -> float:
            rate = EXPECTED_UTILISATION * (self._rate or ASSUMED_RATE)
            once = flops / rate
            compilation = COMPILE_SECONDS[by] * config.num_hidden_layers * forwards
            return SETUP_SECONDS[by] + compilation + updates * once + min(50 * once, MEASURE_SECONDS)

        return predict

    def params(self, model: str) -> Any:
        """Random parameters on the host, created once."""
        if model not in self._params:
            self._params[model] = random_params(CONFIGS[model])
        return self._params[model]

    def batch(self, model: str) -> dict[str, np.ndarray]:
        """A batch of the size given on the command line."""
        return make_batch(self.options.batch, self.options.length, CONFIGS[model].vocab_size)

    def matmul(self) -> dict[str, Any]:
        """Measures the rate that utilisation is relative to."""
        size = self.options.matmul or (512 if jax.default_backend() == "cpu" else 8192)
        self._rate = matmul_rate(size, self.options.rounds)
        return {"size": size, "tflops": round(self._rate / 1e12, 3)}

    def fifty_updates(self) -> dict[str, Any]:
        """Checks fifty updates, and keeps the compiled update for its own row."""
        update = Update(CONFIGS[self.small], self.params(self.small), self.batch(self.small), "smart cheap", "jit")
        self._kept[self.small, "smart cheap"] = update
        return checks.stays_finite(update)

    def our_update(self, model: str, name: str, form: str) -> dict[str, Any]:
        """Time and memory of an update in bfloat16."""
        update = self._kept.pop((model, name), None) if form == "jit" else None
        update = update or Update(CONFIGS[model], self.params(model), self.batch(model), name, form)
        seconds = median_seconds(update, jax.block_until_ready, self.options.rounds)
        more = {"peak_gib": update.peak_gib, "compile_seconds": round(update.step.seconds, 1)}
        return self._timed(model, name, form, seconds) | {key: x for key, x in more.items() if x is not None}

    def peer_update(self, model: str, name: str) -> dict[str, Any]:
        """Time and memory in PyTorch: torch.compile, SDPA, autocast, fused AdamW; "paper" is SMART by that preset."""
        peers.check_device(jax.default_backend())
        peers.release()
        step = peers.pytorch_step(CONFIGS[model], TASK.num_outputs, accelerated=True, paper=name == "paper")
        seconds = median_seconds(partial(step, self.batch(model)), peers.wait, self.options.rounds)
        peak = peers.peak_bytes()
        more = {} if peak is None else {"peak_gib": round(peak / 2**30, 2)}
        return self._timed(model, name, "PyTorch", seconds) | more

    def _timed(self, model: str, name: str, form: str, seconds: float) -> dict[str, Any]:
        """The entry of an update; records its time for ratios and goals."""
        self._seconds[model, name, form] = seconds
        examples = round(self.options.batch / seconds, 1)
        entry = {"step_seconds": round(seconds, 6), "examples_per_second": examples}
        if (plain := self._seconds.get((model, "plain", "jit"))) is not None:
            entry["ratio_to_plain"] = round(seconds / plain, 2)
        if name == "plain" and self._rate is not None:
            entry["utilisation"] = round(self._utilisation(model, seconds), 3)
        return entry

    def _utilisation(self, model: str, seconds: float) -> float:
        """The rate of a plain update's matrix products, relative to the dense product's."""
        flops = FORWARDS["plain"] * model_flops(CONFIGS[model], self.options.batch, self.options.length)
        return flops / seconds / (self._rate or float("nan"))

    def epoch(self, model: str, name: str) -> dict[str, Any]:
        """Estimates an epoch of SST-5 in batches of similar length from updates at three lengths."""
        measured = []
        for length in SST5_LENGTHS:
            batch = make_batch(SST5_BATCH, length, CONFIGS[model].vocab_size)
            update = Update(CONFIGS[model], self.params(model), batch, name, "jit")
            measured.append(median_seconds(update, jax.block_until_ready, self.options.rounds))
        lengths, counts = zip(*SST5_BATCHES.items(), strict=True)
        seconds = float(np.dot(counts, np.interp(lengths, SST5_LENGTHS, measured)))
        return {
            "estimate": f"interpolated from updates at lengths {', '.join(map(str, SST5_LENGTHS))}",
            "epoch_seconds": round(seconds, 3),
            "examples_per_second": round(SST5_EXAMPLES / seconds, 1),
        }

    def goals(self) -> list[dict[str, Any]]:
        """The project's goals for the main model; a value is None until it is measured."""
        plain = self._seconds.get((self.main, "plain", "jit"))

        def over_plain(name: str, form: str = "jit") -> float | None:
            seconds = self._seconds.get((self.main, name, form))
            return seconds / plain if seconds and plain else None

        utilisation = self._utilisation(self.main, plain) if plain and self._rate else None
        tokens = self.options.batch * self.options.length
        values = (
            ("plain, examples/s over PyTorch's", "at least", 1.2, over_plain("plain", "PyTorch")),
            (f"plain, utilisation at {tokens} tokens", "at least", 0.4, utilisation),
            ("smart exact, time over plain's", "at most", 2.4, over_plain("smart exact")),
            ("smart cheap, time over plain's", "at most", 1.8, over_plain("smart cheap")),
        )
        goals = []
        for what, side, limit, value in values:
            met = None if value is None else value >= limit if side == "at least" else value <= limit
            value = None if value is None else round(value, 3)
            goals.append({"goal": f"{self.main} {what}, {side} {limit}", "value": value, "met": met})
        return goals
