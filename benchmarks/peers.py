"""The same updates by what people use today: Transformers on PyTorch, eager on a CPU, compiled on a GPU."""

import copy
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping

import numpy as np

PACKAGES = ("torch", "transformers")


def versions() -> dict[str, str]:
    """Of the peers' packages, or nothing where one is missing."""
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        return {}
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def check_device(platform: str) -> None:
    """RuntimeError if PyTorch would run elsewhere than JAX does on this platform."""
    import torch

    if platform != "cpu" and not (platform == "gpu" and torch.cuda.is_available()):
        raise RuntimeError(f"PyTorch {torch.__version__} does not see the {platform.upper()}")


def pytorch_step(architecture, outputs: int, *, accelerated: bool = False, paper: bool = False) -> Callable:
    """An update of a model of random weights by a batch: cross-entropy, gradients clipped at norm 1, AdamW.

    Args:
      architecture: a `BertConfig`.
      outputs: classes.
      accelerated: on a GPU where there is one: compiled, SDPA, bfloat16 by autocast.
      paper: with SMART as the preset `paper` has it, for batches without padding.

    Returns:
      A function of a batch from `benchmarks.common.make_batch`; what it returns is on the device, and waiting for
      it is waiting for the update.
    """
    import torch
    import transformers

    config = transformers.BertConfig(**vars(architecture), num_labels=outputs, attn_implementation="sdpa")
    device = torch.device("cuda" if accelerated and torch.cuda.is_available() else "cpu")
    model = transformers.BertForSequenceClassification(config).train().to(device)
    anchor = copy.deepcopy(model).requires_grad_(requires_grad=False) if paper else None
    # Fused, as Transformers' Trainer has it by default.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)

    def embed(model, inputs):
        return model.bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])

    def logits(model, hidden):
        return model.classifier(model.dropout(model.bert.pooler(model.bert.encoder(hidden).last_hidden_state))).float()

    def symmetric_kl(a, b):
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()

    def smart_loss(inputs):
        """With masks that differ from pass to pass, as PyTorch's dropout gives them."""
        embeddings = embed(model, inputs)
        clean = logits(model, embeddings)
        noise = 1e-5 * torch.randn_like(embeddings)
        moved = (embeddings.detach() + noise).requires_grad_()
        (gradient,) = torch.autograd.grad(symmetric_kl(logits(model, moved), clean.detach()), moved)
        step = 1e-3 * gradient / gradient.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-20)
        delta = (noise + step).clamp(-1e-5, 1e-5).detach()
        with torch.no_grad():
            anchored = logits(anchor, embed(anchor, inputs))
        loss = torch.nn.functional.cross_entropy(clean, inputs["labels"])
        return loss + symmetric_kl(logits(model, embeddings + delta), clean) + symmetric_kl(clean, anchored)

    def loss_of(inputs):
        with torch.autocast(device.type, torch.bfloat16, enabled=accelerated):
            return smart_loss(inputs) if paper else model(**inputs).loss

    # A gradient taken inside the loss is a break in the graph: what lies between two of them is compiled.
    loss_of = torch.compile(loss_of) if accelerated else loss_of

    def step(batch: Mapping[str, np.ndarray]):
        names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "label": "labels"}
        names |= {} if paper else {"attention_mask": "attention_mask"}
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
    """Until an update is done."""
    loss.item()


def peak_bytes() -> int | None:
    """Of a GPU's memory since the last call, by PyTorch."""
    import torch

    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def release() -> None:
    """Gives a GPU's memory back, and forgets what was compiled."""
    import gc

    import torch

    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
