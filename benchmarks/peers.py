"""The same plain update by what people use today: Transformers on PyTorch, eager."""

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


def pytorch_step(architecture, outputs: int) -> Callable[[Mapping[str, np.ndarray]], None]:
    """An update of a model of random weights by a batch: cross-entropy, gradients clipped at norm 1, AdamW."""
    import torch
    import transformers

    config = transformers.BertConfig(**vars(architecture), num_labels=outputs)
    model = transformers.BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01)

    def step(batch: Mapping[str, np.ndarray]) -> None:
        inputs = {
            name: torch.from_numpy(batch[name].astype(np.int64))
            for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        labels = torch.from_numpy(batch["label"].astype(np.int64))
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
