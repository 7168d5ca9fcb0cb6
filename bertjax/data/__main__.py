"""Checks the data of a recipe without training.

    python -m bertjax.data --config=configs/gold.py:sts --config.data_dir=FOLDER

Takes the flags of train.py. Reports every problem, or the number of rows or documents of each split.
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
    """Prints the number of rows or documents of each split; raises UserError if the data have problems."""
    # These imports take seconds, so they wait until the flags are known to be right.
    from bertjax.config import PretrainConfig, is_pretraining, read_config
    from bertjax.data.corpus import load_corpus
    from bertjax.data.pipeline import declared_tasks, load_datasets
    from bertjax.data.sentence_pairs import check_documents
    from bertjax.errors import UserError
    from bertjax.models.families import family_of
    from bertjax.pretrained import read_model_config, resolve_checkpoint

    recipe = cli.read_recipe(CONFIG)
    splits_by_name: dict[str, Mapping[str, Sequence[Any]]]
    if is_pretraining(recipe):
        settings = read_config(recipe, PretrainConfig)
        corpus = load_corpus(settings.corpus)
        try:
            for documents in corpus.splits.values():
                check_documents(documents)
        except UserError:
            # Only families that take pairs need them. The checkpoint, which may be a download, is read only here.
            if family_of(read_model_config(resolve_checkpoint(settings.init_from))).pretraining_heads:
                raise
        splits_by_name = {corpus.name: corpus.splits}
    else:
        config = read_config(recipe)
        datasets = load_datasets(declared_tasks(config), config)
        for dataset in datasets:
            for line in dataset.warnings:
                print(f"warning: {line}", file=sys.stderr)
        splits_by_name = {dataset.name: dataset.splits for dataset in datasets}
    for name, splits in splits_by_name.items():
        print(f"{name}: {', '.join(f'{len(rows):,} of {split}' for split, rows in splits.items())}")


if __name__ == "__main__":
    cli.run(main)
