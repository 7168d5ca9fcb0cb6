"""GLUE with RoBERTa, in the setting of the SMART paper: Jiang et al., ACL 2020.

    python train.py --config=configs/glue.py:rte
    python train.py --config=configs/glue.py:rte-plain
    python train.py --config=configs/glue.py:rte-large
    python train.py --config=configs/glue.py:rte-large-plain

Tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte. TFDS downloads the data, and the hub the weights.

- `-large` takes roberta-large (355M parameters) instead of roberta-base (125M).
- `-plain` leaves SMART out; all else is equal.

These recipes have not been run: the machine they were written on reaches neither GLUE nor the hub. Tests run them
shrunken.

The paper searches learning rates of 1e-5, 2e-5, 3e-5 and 5e-5, batches of 16, 32 and 64, and λ of 1, 3 and 5. Here one
point of that grid is set for all tasks; change it with `--config.learning_rate`, `--config.batch_size` and
`--config.smart.weight`. Dropout is the checkpoint's 0.1, for which there is no key, and weight decay is 0.01.

roberta-large takes 7.1 GB for its parameters, gradient, Adam's moments and anchor. `--config.micro_batches` and
`--config.remat=True` limit the memory for activations.
"""

from bertjax.config import default_config
from bertjax.data.glue import GLUE

OPTIONS = ([], ["plain"], ["large"], ["large", "plain"])


def get_config(variant="rte"):
    task, *options = variant.split("-")
    if task not in GLUE or options not in OPTIONS:
        raise ValueError(
            "configs/glue.py: expected TASK, TASK-plain, TASK-large or TASK-large-plain, "
            f"TASK one of {', '.join(GLUE)}; found {variant!r}"
        )
    config = default_config()
    config.task = task
    config.init_from = f"FacebookAI/roberta-{'large' if 'large' in options else 'base'}"
    config.learning_rate = 1e-5 if "large" in options else 2e-5
    config.batch_size = 32
    config.epochs = 6
    config.max_length = 512
    if "plain" not in options:
        config.smart.preset = "paper"
    return config
