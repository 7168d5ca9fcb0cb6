"""Further pre-training (MLM and NSP) on editorials of the New York Times.

    python train.py --config=configs/pretrain_editorials.py
    python train.py --config=configs/pretrain_editorials.py --config.corpus=FOLDER

TODO
"""

from bertjax.config import PretrainConfig, default_config


def get_config():
    config = default_config(PretrainConfig)
    config.epochs = 8
    config.learning_rate = 2e-4
    config.head_epochs = 4
    config.head_learning_rate = 2e-3
    config.eval_every = 80
    config.checkpoint_every = 40
    return config
