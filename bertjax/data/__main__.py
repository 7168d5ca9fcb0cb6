"""Checks the data that a recipe would train on, and trains nothing.

python -m bertjax.data --config=configs/gold.py:sts --config.data_dir=FOLDER
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from bertjax import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, as for train.py; --config.KEY=VALUE.")


flags.mark_flag_as_required("config")


def main() -> None:
    """Tells what is wrong with the data, or else how many rows or documents each split has."""
    # Only once the flags are right: it takes seconds.
    from bertjax.config import PretrainConfig, is_pretraining, read_config
    from bertjax.data.corpus import load_corpus
    from bertjax.data.pipeline import declared_tasks, load_datasets
    from bertjax.data.sentence_pairs import check_documents

    recipe = cli.recipe(CONFIG)
    found: dict[str, Mapping[str, Sequence[Any]]]
    if is_pretraining(recipe):
        corpus = load_corpus(read_config(recipe, PretrainConfig).corpus)
        for documents in corpus.splits.values():
            check_documents(documents)
        found = {corpus.name: corpus.splits}
    else:
        config = read_config(recipe)
        datasets = load_datasets(declared_tasks(config), config)
        for line in (line for dataset in datasets for line in dataset.warnings):
            print(f"warning: {line}", file=sys.stderr)
        found = {dataset.name: dataset.splits for dataset in datasets}
    for name, splits in found.items():
        print(f"{name}: {', '.join(f'{len(examples):,} of {split}' for split, examples in splits.items())}")


if __name__ == "__main__":
    cli.run(main)
