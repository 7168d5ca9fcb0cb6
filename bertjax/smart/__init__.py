"""SMART (Jiang et al., ACL 2020) for any JAX model: smoothness, divergences, both terms, and optax transformations.

Imports jax and optax alone. A model is a callable of a batch, from embeddings [B, ...] to logits [B, C]:

    def loss_fn(params, anchor, batch, key):
        x = embed(params, batch)                                # [B, ...]
        logits_fn = lambda x: logits(params, x, batch, key)     # [B, ...] to [B, C], with dropout inside
        z = logits_fn(x)
        r_s = smart.smoothness(
            logits_fn, x, key, divergence=smart.symmetric_kl, mask=batch["mask"], clean_logits=z
        )                                                       # [B]
        d = smart.symmetric_kl(z, logits(anchor, embed(anchor, batch), batch, key))             # [B]
        return jnp.mean(cross_entropy(z, batch["label"]) + r_s + d)

`smart_terms` computes the same from one clean pass, and `add_smart` adds both terms to a chain of optax.
"""

import warnings
from typing import Any

from bertjax.smart.divergences import (
    Divergence,
    jensen_shannon,
    kl,
    squared_error,
    symmetric_bernoulli_kl,
    symmetric_kl,
)
from bertjax.smart.ema import init_anchor, update_anchor
from bertjax.smart.one_example import power_iteration, projected_gradient_ascent, random_perturbation
from bertjax.smart.presets import PRESETS, preset
from bertjax.smart.proximal import ProximalState, add_bregman_proximal
from bertjax.smart.settings import (
    PowerIteration,
    ProjectedGradientAscent,
    RandomPerturbation,
    SmartSettings,
    anchor_decay,
    at_update,
    start_share,
    value_at,
)
from bertjax.smart.smoothness_term import perturbation, smoothness
from bertjax.smart.terms import SplitModel, Terms, smart_terms
from bertjax.smart.transforms import SmartState, SmoothnessState, add_smart, add_smoothness, get_anchor

__all__ = [
    "PRESETS",
    "Divergence",
    "PowerIteration",
    "ProjectedGradientAscent",
    "ProximalState",
    "RandomPerturbation",
    "SmartSettings",
    "SmartState",
    "SmoothnessState",
    "SplitModel",
    "Terms",
    "add_bregman_proximal",
    "add_smart",
    "add_smoothness",
    "anchor_decay",
    "at_update",
    "get_anchor",
    "init_anchor",
    "jensen_shannon",
    "kl",
    "perturbation",
    "power_iteration",
    "preset",
    "projected_gradient_ascent",
    "random_perturbation",
    "smart_terms",
    "smoothness",
    "squared_error",
    "start_share",
    "symmetric_bernoulli_kl",
    "symmetric_kl",
    "update_anchor",
    "value_at",
]

_OLD_NAMES = {"smart": "add_smart", "anchor": "get_anchor"}  # until version 0.2


def __getattr__(name: str) -> Any:
    if name in _OLD_NAMES:
        new = _OLD_NAMES[name]
        warnings.warn(f"bertjax.smart.{name} is now bertjax.smart.{new}", DeprecationWarning, stacklevel=2)
        return globals()[new]
    if name == "Model":
        raise AttributeError(
            "bertjax.smart.Model, of one example, is now bertjax.smart.SplitModel, of a batch: its functions take and "
            "return arrays [B, ...]"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
