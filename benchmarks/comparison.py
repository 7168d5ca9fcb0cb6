"""Measures what smart-pytorch 0.0.4 and `bertjax.smart` compute for one model, and what an update costs with each.

    python -m benchmarks.comparison

The model is MiniLM-L6 after 300 plain updates on rated_sst, on 32 sentences of its dev split; the updates are timed at
MiniLM's size, B = S = 32, and take turns. Without PyTorch, Transformers and smart-pytorch (`pip install smart-pytorch`)
it measures our side alone. Nine minutes on two cores; prints tables and writes benchmarks/results/comparison.json.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import directions, peers
from benchmarks.common import NUM_STEPS, ROWS, TASK, circumstances, make_batch
from benchmarks.steps import MINILM_SIZE
from bertjax import smart
from bertjax.evaluation.tables import format_rows
from bertjax.models.encoder import init_params
from bertjax.models.families import FAMILIES, build_encoder
from bertjax.models.forward import as_smart_model
from bertjax.pretrained.param_names import classifier_names, is_kernel, tensor_names
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

RESULTS = Path(__file__).parent / "results" / "comparison.json"
UPDATES, ROUNDS, BATCH, LENGTH = 300, 10, 32, 32
PEERS = ("torch", "transformers", "smart-pytorch")
TIMED = ("plain", "R_s", "smart exact", "smart cheap")
SEEDS = range(5)
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
README = {"cut": "inputs_embeds", "masked": False}
THEIR_ROWS = {
    "behind LayerNorm": {},
    "behind LayerNorm, step size 0": {"step_size": 0.0},
    "behind LayerNorm, step size 1": {"step_size": 1.0},
    "behind LayerNorm, step size 1000": {"step_size": 1000.0},
    "behind LayerNorm, three steps": {"num_steps": 3},
    "behind LayerNorm, bfloat16": {"bfloat16": True},
    "behind LayerNorm, dropout": {"dropout": True},
    "behind LayerNorm, dropout, step size 0": {"dropout": True, "step_size": 0.0},
    "behind LayerNorm, dropout, summed loss for the step": {"dropout": True, "summed": True},
    "behind LayerNorm, 48 more padding": {"padding": 48},
    "inputs_embeds with the mask": {"cut": "inputs_embeds"},
    "inputs_embeds without a mask": README,
    "inputs_embeds without a mask, 48 more padding": README | {"padding": 48},
}


def has_peers() -> bool:
    """Whether all packages of the other side are installed."""
    return all(importlib.util.find_spec(name.replace("-", "_")) for name in PEERS)


def size(embeddings: np.ndarray, delta: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """A perturbation's largest element in a token, and its RMS over the embeddings' RMS in an example: means."""
    keep = mask[..., None]
    rms = [np.sqrt(np.sum(keep * x**2, (1, 2)) / np.sum(keep, (1, 2)) / x.shape[-1]) for x in (delta, embeddings)]
    return {"largest": float(np.abs(delta).max(-1)[mask].mean()), "relative_rms": float(np.mean(rms[0] / rms[1]))}


def token_cosine(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """The mean cosine of two perturbations, token by token."""
    cosines = np.sum(a * b, -1) / np.sqrt(np.sum(a**2, -1) * np.sum(b**2, -1))
    return float(cosines[mask].mean())


def mean_rows(rows: list[dict]) -> dict:
    """The mean of each number over rows that differ in their seed."""
    return {k: float(np.mean([row[k] for row in rows])) if isinstance(v, float) else v for k, v in rows[0].items()}


def our_rows(inputs: Any, params: dict, batch: Mapping, dtype: str) -> list[dict]:
    """Presets and the power iteration, without dropout."""
    methods = {
        "paper": smart.preset("paper"),
        "mtdnn_2020": smart.preset("mtdnn_2020"),
        "mtdnn_head": smart.preset("mtdnn_head"),
        "power iteration, radius 0.02": smart.PowerIteration(),
        "power iteration, radius 0.64": smart.PowerIteration(radius=0.64),  # smart-pytorch's size on this model
    }
    cut = as_smart_model(inputs.model.clone(dtype=jnp.dtype(dtype)), inputs.tasks[0])

    @partial(jax.jit, static_argnames="settings")
    def measure(params, batch, key, settings):
        def logits_fn(embeddings):
            return cut.logits(params, embeddings, batch, None)

        is_matched = getattr(settings, "matched_dropout", True)
        embeddings = cut.embed(params, batch)
        arguments = {
            "divergence": smart.symmetric_kl,
            "mask": batch["attention_mask"],
            "settings": settings,
            "perturbed_logits_fn": None if is_matched else logits_fn,
        }
        delta = smart.perturbation(logits_fn, embeddings, key, **arguments)
        return embeddings, delta, jnp.mean(smart.smoothness(logits_fn, embeddings, key, **arguments))

    def row(name: str, settings: Any, seed: int) -> dict:
        embeddings, delta, r_s = measure(params, batch, jax.random.key(seed), settings)
        about = size(np.asarray(embeddings, np.float32), np.asarray(delta), batch["attention_mask"])
        return {"name": name, "dtype": dtype, "r_s": float(r_s), **about}

    return [mean_rows([row(name, settings, seed) for seed in SEEDS]) for name, settings in methods.items()]


def transformers_model(architecture: Any, params: Mapping, task: str):
    """The same model in Transformers."""
    import torch
    import transformers

    names = {path: "bert." + name for path, name in tensor_names(architecture).items()}
    names |= {("head_" + task, path[-1]): name for path, name in classifier_names(architecture).items()}
    outputs = params["head_" + task]["bias"].size
    config = transformers.AutoConfig.for_model(**architecture.to_dict(), num_labels=outputs)
    model = transformers.BertForSequenceClassification(config)
    flat = {tuple(key.key for key in path): np.array(x) for path, x in jax.tree.leaves_with_path(params)}
    tensors = {names[path]: torch.from_numpy((x.T if is_kernel(path) else x).copy()) for path, x in flat.items()}
    model.load_state_dict(tensors)
    return model.eval()


def behind_layer_norm(model, mask) -> Callable:
    """The model behind the embeddings' LayerNorm: [B, S, D] to logits."""
    import torch

    hidden_mask = torch.zeros(mask.shape, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)

    def logits(hidden):
        states = model.bert.encoder(hidden, attention_mask=hidden_mask[:, None, None]).last_hidden_state
        return model.classifier(model.dropout(model.bert.pooler(states)))

    return logits


def their_rows(model, batch: Mapping) -> list[dict]:
    """smart-pytorch on the same weights: cut behind the LayerNorm, and at `inputs_embeds` as in its README."""
    import smart_pytorch
    import torch

    def measure(
        seed: int, *, padding=0, cut="LayerNorm", masked=True, bfloat16=False, dropout=False, summed=False, **options
    ):
        arrays = {name: np.pad(batch[name], ((0, 0), (0, padding))) for name in INPUTS}
        ids, types = (torch.from_numpy(arrays[name].astype(np.int64)) for name in INPUTS[:2])
        mask = torch.from_numpy(arrays["attention_mask"])
        behind, seen = behind_layer_norm(model, mask), []

        def eval_fn(x):
            seen.append(x.detach())
            if cut == "LayerNorm":
                return behind(x)
            return model(inputs_embeds=x, attention_mask=mask if masked else None).logits

        torch.manual_seed(seed)
        model.train(dropout)
        step_loss = partial(smart_pytorch.kl_loss, reduction="sum" if summed else "batchmean")
        regularizer = smart_pytorch.SMARTLoss(eval_fn, step_loss, smart_pytorch.sym_kl_loss, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            embeddings = model.bert.embeddings(input_ids=ids, token_type_ids=types)
            clean = model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits
            r_s = regularizer(embeddings, clean) / len(ids)  # a sum in the package
            unperturbed = smart_pytorch.sym_kl_loss(eval_fn(embeddings), clean) / len(ids)
        start, *_, delta, zero = (np.asarray(x - embeddings.detach()) for x in seen)
        assert not zero.any()
        row = {"r_s": r_s.item(), "r_s_without_perturbation": unperturbed.item()}
        row |= size(np.asarray(embeddings.detach()), delta, arrays["attention_mask"])
        return row | {"cosine_with_noise": token_cosine(start, delta, arrays["attention_mask"])}

    return [
        {"name": name} | mean_rows([measure(seed, **options) for seed in SEEDS]) for name, options in THEIR_ROWS.items()
    ]


def smart_pytorch_step(architecture: Any) -> Callable:
    """An update with smart-pytorch, beside the plain one of `benchmarks.peers`; for batches without padding."""
    import smart_pytorch
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**architecture.to_dict(), num_labels=TASK.num_outputs)
    model = transformers.BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)

    def logits(hidden):
        return model.classifier(model.dropout(model.bert.pooler(model.bert.encoder(hidden).last_hidden_state)))

    regularizer = smart_pytorch.SMARTLoss(logits, smart_pytorch.kl_loss, smart_pytorch.sym_kl_loss)

    def step(batch):
        ids, types, labels = (torch.from_numpy(batch[name].astype(np.int64)) for name in (*INPUTS[:2], "label"))
        optimizer.zero_grad()
        embeddings = model.bert.embeddings(input_ids=ids, token_type_ids=types)
        clean = logits(embeddings)
        loss = torch.nn.functional.cross_entropy(clean, labels) + regularizer(embeddings, clean) / len(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def timings() -> list[dict]:
    """Median seconds of whole updates at MiniLM's size, which take turns."""
    family = FAMILIES["bert"]
    config = family.config(**MINILM_SIZE)
    model = build_encoder(config, {TASK.name: TASK.num_outputs})
    params = init_params(jax.random.key(0), model)
    adamw = optimizer.adamw(optimizer.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01)
    batch, key = make_batch(BATCH, LENGTH, config.vocab_size), jax.random.key(1)
    steps = {}
    for name in TIMED:
        spec = FinetuningSpec(model=model, tasks=(TASK,), tx=adamw, settings=ROWS[name], num_steps=NUM_STEPS)
        state = init_state(jax.tree.map(jnp.copy, params), adamw, ROWS[name])
        compiled = jax.jit(partial(train_step, spec), donate_argnums=0).lower(state, {TASK.name: batch}, key).compile()
        steps["bertjax", name] = OurUpdates(compiled, state, {TASK.name: batch}, key)
    if has_peers():
        steps["PyTorch", "plain"] = partial(peers.pytorch_step(config, TASK.num_outputs), batch)
        steps["PyTorch", "smart-pytorch"] = partial(smart_pytorch_step(config), batch)
    seconds = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return [
        {"side": side, "name": name, "seconds": value, "ratio_to_plain": value / median[side, "plain"]}
        for (side, name), value in median.items()
    ]


@dataclasses.dataclass
class OurUpdates:
    """Repeats a compiled update of a state."""

    compiled: Any
    state: Any
    batches: Mapping
    key: jax.Array

    def __call__(self) -> None:
        """One update."""
        self.state, _ = self.compiled(self.state, self.batches, self.key)
        jax.block_until_ready(self.state)


def rounded(row: Mapping) -> dict:
    """Numbers of four digits."""
    return {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in row.items()}


def main() -> None:
    """Measures and reports."""
    inputs, params = directions.load()
    batch = directions.sentences(inputs)
    params = directions.trained(inputs, params, UPDATES)
    report = circumstances()
    if has_peers():
        report["peers"] = {name: importlib.metadata.version(name) for name in PEERS}
        architecture = inputs.model.config
        model = transformers_model(architecture, params, inputs.tasks[0].name)
        report["smart_pytorch"] = their_rows(model, batch)
    report["bertjax"] = [row for dtype in ("float32", "bfloat16") for row in our_rows(inputs, params, batch, dtype)]
    report["updates"] = timings()
    for name in ("smart_pytorch", "bertjax", "updates"):
        if name in report:
            print(format_rows(report[name]), flush=True)
            report[name] = [rounded(row) for row in report[name]]
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
