"""The optimizer of fine-tuning: clipping, AdamW with a decay mask, linear warm-up and decay."""

from typing import Any

import jax
import optax


def linear_schedule(peak: float, num_steps: int, warmup: float) -> optax.Schedule:
    """Linear warm-up from 0 over the first `warmup` share of the updates, then linear decay to 0."""
    warmup_steps = round(warmup * num_steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup_steps),
            optax.linear_schedule(peak, 0.0, num_steps - warmup_steps),
        ],
        [warmup_steps],
    )


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: kernels and embedding tables, not biases or LayerNorm."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return path[-1].key in ("kernel", "embedding")

    return jax.tree_util.tree_map_with_path(decays, params)


def adamw(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Gradient clipping at global norm 1, then AdamW.

    Adam's eps is 1e-6. The gradient of a key bias is rounding noise, which a smaller eps would scale to full steps.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, eps=1e-6, weight_decay=weight_decay, mask=decay_mask),
    )

    def update(gradient: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        # Adam's bias correction and schedules raise floats to integer powers, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradient, state, params)

    return optax.GradientTransformation(chain.init, update)
