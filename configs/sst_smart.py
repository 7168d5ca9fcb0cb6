"""SMART on movie-review sentences.

    python train.py --config=configs/sst_smart.py
    python train.py --config=configs/sst_smart.py:base
    python train.py --config=configs/sst_smart.py:paper --config.data_dir=FOLDER

The first command fine-tunes the starter model (MiniLM-L6) on `rated_sst`, both from the Python package index.

- Cost: 400 updates, five to ten minutes and 3 GB of memory on two CPU cores.
- Score on dev (means of three seeds): accuracy 0.57, loss 1.05, calibration error 0.077. Plain fine-tuning
  (`configs/sst.py`): 0.55, 1.08, 0.059.
- λ is half the preset's: after two epochs the model is still under-confident, and R_s makes it more so.

The second does so with mpnet-base (110M parameters) for 100 updates: fewer, as each costs about ten times as much.
`--config.smart.preset=none --workdir=runs/base_plain` is plain fine-tuning. Both models were trained as sentence
encoders, on pairs (Quora, SNLI, MultiNLI).

- Cost: 100 updates, each about 22 s of processor time, and 6 GB of memory: 62 minutes on two CPU cores that others used
  too, and about 25 on quiet ones, by the processor time.
- Score on dev, one seed: accuracy 0.595, loss 1.044. Plain fine-tuning: 0.593, 1.040: no gain in this run.

The third is the setting of Jiang et al. (ACL 2020): bert-base-uncased from the hub, gold SST-5 from a folder of CS224N
files, and the paper's hyperparameters. It has not been run; docs/paper.md says what to expect.
"""

from bertjax.config import default_config


def get_config(variant="starter"):
    config = default_config()
    if variant == "starter":
        config.epochs = 2
        config.max_steps = 400
        config.max_length = 48  # cuts 4% of the sentences, and memory by a tenth
        config.checkpoint_every = 100
        config.smart.preset = "bertjax"
        config.smart.weight = 0.5
    elif variant == "base":
        config.init_from = "mpnet-base"
        config.epochs = 1
        config.max_steps = 100
        config.max_length = 48
        config.checkpoint_every = 25
        config.smart.preset = "bertjax"
        config.smart.weight = 0.5
    elif variant == "paper":
        config.task = "sst5"
        config.init_from = "bert-base-uncased"
        config.epochs = 6
        config.learning_rate = 2e-5
        config.smart.preset = "paper"
    else:
        raise ValueError(f"configs/sst_smart.py: expected variant starter, base or paper, found {variant!r}")
    return config
