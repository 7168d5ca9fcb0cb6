"""Further pre-training (MLM and NSP) on editorials of the New York Times.

    python train.py --config=configs/pretrain_editorials.py
    python train.py --config=configs/pretrain_editorials.py --config.corpus=FOLDER

TODO
"""

from bertjax.config import PretrainConfig, default_config


def get_config():
    config = default_config(PretrainConfig)
    config.checkpoint_every = 100
    return config
