"""Settings of runs: the keys that recipes share, their defaults, and their validation."""

from bertjax.config.finetuning import ColumnsConfig, RunConfig
from bertjax.config.pretraining import PretrainConfig
from bertjax.config.reading import default_config, is_pretraining, read_config
from bertjax.config.smart import SmartConfig
from bertjax.config.trainer import TrainerConfig

__all__ = [
    "ColumnsConfig",
    "PretrainConfig",
    "RunConfig",
    "SmartConfig",
    "TrainerConfig",
    "default_config",
    "is_pretraining",
    "read_config",
]
