"""Reference updates in Transformers on PyTorch: eager on a CPU, compiled on a GPU."""

import copy
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Mapping

import numpy as np

PACKAGES = ("torch", "transformers")


def versions() -> dict[str, str]:
    """Versions of the peers' packages; empty if one is missing."""
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        return {}
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def check_device(platform: str) -> None:
    """Raises a RuntimeError if PyTorch would run on another platform than JAX."""
    import torch

    if platform != "cpu" and not (platform == "gpu" and torch.cuda.is_available()):
        raise RuntimeError(f"PyTorch {torch.__version__} does not see the {platform.upper()}")


def pytorch_step(architecture, outputs: int, *, accelerated: bool = False, paper: bool = False) -> Callable:
    """An update of a model with random weights: cross-entropy, gradients clipped at norm 1, AdamW.

    Args:
      architecture: a family's config.
      outputs: number of classes.
      accelerated: on a GPU if there is one, compiled, with SDPA and bfloat16 autocast.
      paper: with SMART by the preset `paper`, of a BERT alone; batches must have no padding.

    Returns:
      A function of a batch from `benchmarks.common.make_batch` that returns the loss on the device; see `wait`.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**architecture.to_dict(), num_labels=outputs)
    device = torch.device("cuda" if accelerated and torch.cuda.is_available() else "cpu")
    # SDPA where Transformers has it for the family.
    model = transformers.AutoModelForSequenceClassification.from_config(config).train().to(device)
    arguments = inspect.signature(model.forward).parameters
    anchor = copy.deepcopy(model).requires_grad_(requires_grad=False) if paper else None
    # Fused, the default of Transformers' Trainer.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)

    def embed(model, inputs):
        return model.bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])

    def logits(model, hidden):
        return model.classifier(model.dropout(model.bert.pooler(model.bert.encoder(hidden).last_hidden_state))).float()

    def symmetric_kl(a, b):
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()

    def smart_loss(inputs):
        """The loss with SMART; as usual in PyTorch, each pass has its own dropout masks."""
        embeddings = embed(model, inputs)
        clean = logits(model, embeddings)
        noise = 1e-5 * torch.randn_like(embeddings)
        perturbed = (embeddings.detach() + noise).requires_grad_()
        (gradient,) = torch.autograd.grad(symmetric_kl(logits(model, perturbed), clean.detach()), perturbed)
        step = 1e-3 * gradient / gradient.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-20)
        delta = (noise + step).clamp(-1e-5, 1e-5).detach()
        with torch.no_grad():
            anchored = logits(anchor, embed(anchor, inputs))
        loss = torch.nn.functional.cross_entropy(clean, inputs["labels"])
        return loss + symmetric_kl(logits(model, embeddings + delta), clean) + symmetric_kl(clean, anchored)

    def loss_of(inputs):
        with torch.autocast(device.type, torch.bfloat16, enabled=accelerated):
            return smart_loss(inputs) if paper else model(**inputs).loss

    # A gradient inside the loss breaks the graph; the parts between breaks are compiled.
    loss_of = torch.compile(loss_of) if accelerated else loss_of

    def step(batch: Mapping[str, np.ndarray]):
        names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "label": "labels"}
        names |= {} if paper else {"attention_mask": "attention_mask"}
        names = {name: new for name, new in names.items() if new in arguments}
        inputs = {new: torch.from_numpy(batch[name].astype(np.int64)).to(device) for name, new in names.items()}
        optimizer.zero_grad()
        if anchor is not None:
            with torch.no_grad():
                torch._foreach_lerp_(list(anchor.parameters()), list(model.parameters()), 0.01)
        loss = loss_of(inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def wait(loss) -> None:
    """Waits for an update to finish."""
    loss.item()


def peak_bytes() -> int | None:
    """PyTorch's peak GPU memory since the last call; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def release() -> None:
    """Frees GPU memory and drops compiled functions."""
    import gc

    import torch

    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
