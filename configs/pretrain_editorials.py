"""Further pre-training (MLM and NSP) on editorials of the New York Times.

    python train.py --config=configs/pretrain_editorials.py
    python train.py --config=configs/pretrain_editorials.py --config.corpus=FOLDER
    python train.py --config=configs/pretrain_editorials.py --config.init_from=FOLDER

A checkpoint of another family than BERT, such as RoBERTa, is trained by MLM alone, on full sentences.

- Cost from MiniLM: 23 minutes of processor time, about twelve minutes on two quiet CPU cores.
- Score on the 36 held-out editorials, seed 0, before (heads alone trained) and after: accuracy of masked words 0.121
  and 0.299, perplexity 755 and 103, accuracy of next-sentence prediction 0.500 and 0.750.

Expect these scores only roughly: they were measured when batches were padded to max_length, and the same seed now gives
other batches and masks.
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
