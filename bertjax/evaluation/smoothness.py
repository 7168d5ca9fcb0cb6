"""How smooth a trained model is round its inputs: R_s at a radius that is the same for every model."""

from collections.abc import Mapping
from typing import Any

import jax

from bertjax import smart

RADIUS = 0.02


def smoothness_step(
    params: Any, batch: Mapping[str, jax.Array], *, model: smart.Model, divergence: smart.Divergence, radius: float
) -> jax.Array:
    """The divergence between each example's clean output and that at its worst perturbation of a radius.

    The perturbation is one exact power step from noise (`smart.power_iteration`), the noise drawn by the example's
    place in its split; no pass has dropout. So models trained with and without SMART, whatever its settings, are
    measured alike.

    Args:
      params: of the model.
      batch: a replica's; `index` int32 [B] and `attention_mask` bool [B, S] among what the model takes.
      model: cut at the embeddings; None for its dropout key switches dropout off.
      divergence: between outputs.
      radius: the RMS of the perturbation as a share of the embedding's over real tokens.

    Returns:
      float32 [B].
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
    settings = smart.SmartSettings(weight=1.0, adversary="power_iteration", start="noise", num_steps=1, radius=radius)
    terms = smart.smart_terms(
        model._replace(logits=lambda params, embedding, example, _: model.logits(params, embedding, example, None)),
        params,
        None,
        batch,
        dropout_keys=keys,
        noise_keys=keys,
        mask=batch["attention_mask"],
        divergence=divergence,
        settings=settings,
    )
    return terms.smoothness
