"""Applies a function of a batch to every example of a split, in the split's order."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from bertjax.data.batching import eval_batches, with_pooled
from bertjax.data.tokenize import TokenizedExamples
from bertjax.models.forward import Params
from bertjax.parallel import CompiledByShape, DataParallel


class Predictor:
    """Applies `step(params, batch)` to whole splits; each batch shape is compiled once."""

    def __init__(self, step: Callable[..., jax.Array], parallel: DataParallel, pad_id: int):
        """Takes a step that returns [B, ...], the devices to map it over, and the token id of padding."""
        self._parallel, self._pad_id = parallel, pad_id
        self._step = CompiledByShape(parallel.map_eval(step))

    def predict(
        self,
        params: Params,
        examples: TokenizedExamples,
        *,
        batch_size: int,
        bucket_boundaries: Sequence[int],
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """The step's outputs for every example, in the split's order: [N, ...].

        Args:
          params: replicated over the devices.
          examples: the split's N examples.
          batch_size: B, over all devices.
          bucket_boundaries: the lengths to pad batches to.
          pooled: pooled states [N, D] that replace the tokens of a batch, or None.
        """
        outputs, indices = [], []
        for batch in eval_batches(
            examples, batch_size=batch_size, bucket_boundaries=bucket_boundaries, pad_id=self._pad_id
        ):
            valid, index = batch["valid"], batch["index"]
            batch = batch if pooled is None else with_pooled(pooled, batch)
            outputs.append(self._parallel.gather(self._step(params, self._parallel.shard(batch)))[valid])
            indices.append(index[valid])
        in_batch_order = np.concatenate(outputs)
        in_split_order = np.empty_like(in_batch_order)
        in_split_order[np.concatenate(indices)] = in_batch_order
        return in_split_order
