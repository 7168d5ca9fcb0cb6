"""SMART (Jiang et al., ACL 2020) for any JAX model: adversaries, divergences and the two regularisers.

Needs jax alone; models come in as callables of one example.
"""

from bertjax.smart.adversary import power_iteration, projected_gradient_ascent
from bertjax.smart.divergences import Divergence, squared_error, symmetric_kl
from bertjax.smart.settings import PRESETS, SmartSettings, preset
from bertjax.smart.terms import Model, Terms, anchor_decay, init_anchor, smart_terms, update_anchor

__all__ = [
    "PRESETS",
    "Divergence",
    "Model",
    "SmartSettings",
    "Terms",
    "anchor_decay",
    "init_anchor",
    "power_iteration",
    "preset",
    "projected_gradient_ascent",
    "smart_terms",
    "squared_error",
    "symmetric_kl",
    "update_anchor",
]
