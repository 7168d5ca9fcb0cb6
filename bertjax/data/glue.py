"""GLUE (Wang et al., ICLR 2019), as TFDS prepares it: its splits, columns and classes."""

import contextlib
import io
from collections.abc import Mapping
from functools import partial
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.text.glue import Glue

from bertjax.data.dataset import Dataset, Example, Records, plain
from bertjax.errors import UserError, reason
from bertjax.files.paths import cache_dir
from bertjax.tasks import Schema

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")


VERSION = "2.0.0"


# MultiNLI's other dev and test sets, of unseen genres, have other names.
_SPLITS = {"mnli": {"train": "train", "dev": "validation_matched", "test": "test_matched"}}


_OTHER_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def load_glue(name: str, schema: Schema) -> Dataset:
    """Loads a GLUE task; the first time, TFDS downloads and prepares it in bertjax's cache.

    Args:
      name: one of `GLUE`.
      schema: its columns, under TFDS's names.

    Raises:
      UserError: TFDS could not get it.
    """
    try:
        # By its class: `tfds.builder` knows a dataset only once its module has been imported.
        data_dir = cache_dir() / "tfds"
        builder = Glue(config=name, version=VERSION, data_dir=data_dir, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            # A file whose checksum TFDS knows is checked in any case; this refuses one whose checksum it does not know.
            checked = tfds.download.DownloadConfig(force_checksums_validation=True)
            builder.download_and_prepare(download_config=checked)
        sources = {split: builder.as_data_source(theirs) for split, theirs in _SPLITS.get(name, _OTHER_SPLITS).items()}
    except Exception as error:  # TFDS passes on whatever its transport raises
        told = reason(error)
        if isinstance(error, NonMatchingChecksumError):  # whose own words end with what matters
            told = f"{told.partition(', ')[0].removeprefix('Artifact ')} has another checksum than TFDS knows"
        raise UserError(
            f"--config.task: {name} is downloaded through TFDS, as glue/{name}, which failed ({told}); "
            "check the network, or choose a task with files of your own"
        ) from error
    return Dataset(
        name=name,
        fingerprint=f"glue/{name}:{VERSION}",
        labels=f"GLUE's, from TFDS glue/{name} {VERSION}",
        splits={split: Records(source, partial(_example, schema)) for split, source in sources.items()},
        unlabelled=("test",),
    )


def _example(schema: Schema, record: Mapping[str, Any]) -> Example:
    texts = dict(zip(("text", "text_pair"), (record[column] for column in schema.texts), strict=False))
    return plain({**texts, "label": record[schema.label]}) | {"id": str(int(record["idx"]))}
