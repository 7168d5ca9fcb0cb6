"""SMART on a tab-separated file of your own.

    python train.py --config=configs/own.py --config.data_file=reviews.tsv --config.columns.text=review \
        --config.columns.label=stars --config.columns.classes="('bad','good')"   # or .range="(0.,5.)" for a score

Three epochs in batches of 32, texts of at most 128 tokens, starting from MiniLM-L6. `--config.smart.preset=none` leaves
SMART out. docs/tasks.md describes the file format.
"""

from bertjax.config import default_config


def get_config():
    config = default_config()
    config.data_file = "YOUR_FILE.tsv"
    config.smart.preset = "bertjax"
    return config
