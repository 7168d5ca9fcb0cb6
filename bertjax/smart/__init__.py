"""SMART (Jiang et al., ACL 2020) for any JAX model: adversaries, divergences, both terms, and optax transformations.

Imports jax and optax alone; models are callables of one example.
"""

from bertjax.smart.adversaries import power_iteration, projected_gradient_ascent, random_perturbation
from bertjax.smart.divergences import Divergence, jensen_shannon, kl, squared_error, symmetric_kl
from bertjax.smart.ema import init_anchor, update_anchor
from bertjax.smart.presets import PRESETS, preset
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
from bertjax.smart.terms import Model, Terms, smart_terms
from bertjax.smart.transforms import SmartState, add_bregman_proximal, add_smoothness, anchor, smart

__all__ = [
    "PRESETS",
    "Divergence",
    "Model",
    "PowerIteration",
    "ProjectedGradientAscent",
    "RandomPerturbation",
    "SmartSettings",
    "SmartState",
    "Terms",
    "add_bregman_proximal",
    "add_smoothness",
    "anchor",
    "anchor_decay",
    "at_update",
    "init_anchor",
    "jensen_shannon",
    "kl",
    "power_iteration",
    "preset",
    "projected_gradient_ascent",
    "random_perturbation",
    "smart",
    "smart_terms",
    "squared_error",
    "start_share",
    "symmetric_kl",
    "update_anchor",
    "value_at",
]
