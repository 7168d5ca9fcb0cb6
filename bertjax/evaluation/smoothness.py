"""Measured smoothness of a trained model: the divergence under a perturbation that is the same for every model."""

from collections.abc import Mapping
from typing import Any

import jax

from bertjax import smart

RADIUS = 0.02
"""Default RMS of the perturbation, relative to the embeddings' RMS."""


def smoothness_step(
    params: Any, batch: Mapping[str, jax.Array], *, model: smart.SplitModel, divergence: smart.Divergence, radius: float
) -> jax.Array:
    """The divergence between each example's outputs on clean and on adversarially perturbed embeddings.

    The perturbation is one exact power step from noise (`smart.perturbation`), without dropout; the noise depends
    only on the example's index in its split. Models trained with and without SMART, with any settings, are therefore
    comparable.

    Args:
      params: the model's parameters.
      batch: the inputs of `model`, among them `index` int32 [B] and `attention_mask` bool [B, S].
      model: the model, split at the embeddings; its dropout is off if the dropout key is None.
      divergence: the divergence between outputs.
      radius: RMS of the perturbation, relative to the RMS of the example's embeddings over real tokens.

    Returns:
      float32 [B].
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
    return smart.smoothness(
        lambda x: model.logits(params, x, batch, None),
        model.embed(params, batch),
        keys,
        divergence=divergence,
        mask=batch["attention_mask"],
        settings=smart.PowerIteration(radius=radius, start="noise", num_steps=1),
    )
