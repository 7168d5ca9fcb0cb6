"""One encoder for several tasks, with SMART on each of them.

    python train.py --config=configs/mtl_smart.py
    python train.py --config=configs/mtl_smart.py:gold --config.data_dir=FOLDER

The first command needs nothing but the Python package index. It trains on rated_sst (five classes), rated_amazon and
rated_tweets (scores).

- Cost: 600 updates, 26 minutes on two CPU cores shared with other work.
- Score on dev, seed 0: accuracy 0.570 (rated_sst), Pearson 0.885 (rated_amazon) and 0.914 (rated_tweets).

The second trains on gold SST-5, Quora and STS from a folder of CS224N files; docs/gold.md has the cost and the expected
scores.

Every update takes a batch of one task; `--config.sampling` chooses how tasks take turns. `--config.smart.preset=none`
leaves SMART out. `--config.pcgrad=True` takes a batch of every task at each update and projects conflicting gradients.
To fine-tune on one of the tasks afterwards, pass the run's folder as `--config.init_from`.
"""

from bertjax.config import default_config


def get_config(variant="starter"):
    config = default_config()
    config.smart.preset = "bertjax"
    if variant == "starter":
        config.tasks = ("rated_sst", "rated_amazon", "rated_tweets")
        config.sampling = "proportional"
        config.max_length = 48
        config.epochs = 2
        config.max_steps = 600
        config.checkpoint_every = 100
    elif variant == "gold":
        config.tasks = ("sst5", "quora", "sts")
        config.sampling = "square_root"
        config.on_bad_row = "skip"  # some rows of Quora have no label
        config.epochs = 3
        config.checkpoint_every = 200
    else:
        raise ValueError(f"configs/mtl_smart.py: expected variant starter or gold, found {variant!r}")
    return config
