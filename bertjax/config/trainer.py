"""Settings that every kind of run shares."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from bertjax.errors import UserError, shown


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """Settings of any run.

    Attributes:
      init_from: The checkpoint to start from: `minilm-l6` or `mpnet-base`; a folder in Hugging Face's or Google's
        layout, made by `convert`, or of a finished run; or a hub name, optionally with `@revision`.
      seed: Seed of new heads, data order, dropout and noise, and of pairs and masks in pre-training.
      epochs: Passes over the training data; in pre-training each has new pairs and masks.
      max_steps: Maximum number of updates, where the learning rate reaches 0; None for all epochs.
      batch_size: Examples per update, over all devices.
      micro_batches: Number of parts in which a device computes its share of a batch, one after another, to save memory.
        The update is the same.
      remat: Whether the backward pass recomputes the encoder's layers, to save memory. The update is the same, and
        slower.
      learning_rate: Peak learning rate, after the warm-up.
      weight_decay: AdamW's, on kernels and embedding tables.
      warmup: Share of the updates with a rising learning rate.
      max_length: Maximum number of tokens of an example, [CLS] and [SEP] included; longer ones are cut.
      dtype: Compute dtype: float32 or bfloat16. Parameters are float32.
      eval_every: Updates between evaluations on dev, each followed by a checkpoint; None for once per epoch.
      checkpoint_every: Updates between further checkpoints; None for none.
      max_skipped: Maximum number of updates in a row that are skipped because their loss or gradient is not finite.
        One more ends the run.

    Raises:
      UserError: A value is out of range.
    """

    init_from: str = "minilm-l6"
    seed: int = 0
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 32
    micro_batches: int = 1
    remat: bool = False
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_length: int = 128
    dtype: str = "float32"
    eval_every: int | None = None
    checkpoint_every: int | None = None
    max_skipped: int = 10

    def __post_init__(self) -> None:
        self.check_counts("epochs", "max_steps", "batch_size", "micro_batches", "eval_every", "checkpoint_every")
        self.check_amounts("learning_rate", "weight_decay", "max_skipped")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--config.warmup: expected a share of the updates in [0, 1], found {self.warmup}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--config.seed: expected an integer in [0, 2**32), found {shown(self.seed)}")
        self.check_choice("dtype", ("float32", "bfloat16"))

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values, as in config.json."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify the configuration."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_counts(self, *names: str) -> None:
        """UserError unless each value is None or in [1, 2**31)."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--config.{name}: expected at least 1, found {shown(value)}")
            if value is not None and value >= 2**31:
                raise UserError(f"--config.{name}: expected less than 2**31, found {shown(value)}")

    def check_amounts(self, *names: str) -> None:
        """UserError unless each value is finite and not negative."""
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--config.{name}: expected a finite number of at least 0, found {value}")

    def check_choice(self, name: str, known: Sequence[str]) -> None:
        """UserError unless the value is one of those known."""
        value = getattr(self, name)
        if value not in known:
            alternatives = f"{', '.join(known[:-1])} or {known[-1]}"
            raise UserError(f"--config.{name}: expected {alternatives}, found {shown(value)}")

    def check_max_length(self, minimum: int) -> None:
        """UserError if examples would have no room for text."""
        if self.max_length < minimum:
            raise UserError(f"--config.max_length: expected at least {minimum} tokens, found {shown(self.max_length)}")
