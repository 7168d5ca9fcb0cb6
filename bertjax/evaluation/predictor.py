"""Runs a function of a batch over a whole split."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from bertjax.data.batching import eval_batches, with_pooled
from bertjax.data.tokenize import TokenizedExamples
from bertjax.models.forward import Params
from bertjax.parallel import CompiledByShape, DataParallel


class Predictor:
    """Runs a function of a batch over whole splits; each batch shape is compiled once."""

    def __init__(self, step: Callable[..., jax.Array], parallel: DataParallel, pad_id: int):
        """Takes `step(params, batch)`, which gives [B, ...], the devices, and the token id of padding."""
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
        """What `step` gives for every example, in the split's order: [N, ...].

        Args:
          params: replicated.
          examples: the split.
          batch_size: B.
          bucket_boundaries: from `bucket_edges`.
          pooled: [N, D], what batches hold in place of tokens, or None.
        """
        found, places = [], []
        for batch in eval_batches(
            examples, batch_size=batch_size, bucket_boundaries=bucket_boundaries, pad_id=self._pad_id
        ):
            valid, index = batch["valid"], batch["index"]
            batch = batch if pooled is None else with_pooled(pooled, batch)
            found.append(self._parallel.gather(self._step(params, self._parallel.shard(batch)))[valid])
            places.append(index[valid])
        outputs = np.concatenate(found)
        predictions = np.empty_like(outputs)
        predictions[np.concatenate(places)] = outputs
        return predictions
