"""Plain fine-tuning on movie-review sentences, with the budget of `configs/sst_smart.py`.

python train.py --config=configs/sst.py
"""

from bertjax.config import default_config


def get_config():
    config = default_config()
    config.epochs = 2
    config.max_steps = 400
    config.max_length = 64
    return config
