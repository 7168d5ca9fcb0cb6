"""GLUE (Wang et al., ICLR 2019) through TFDS."""

import contextlib
import io
from collections.abc import Mapping
from functools import partial
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.text.glue import Glue

from bertjax.data.dataset import Dataset, Example, LazyExamples, to_python
from bertjax.errors import UserError, reason
from bertjax.files.paths import cache_dir
from bertjax.tasks import Schema

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
VERSION = "2.0.0"
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}

# MultiNLI has a second dev and test set, the mismatched ones, with text of other genres.
_MNLI_SPLITS = {"train": "train", "dev": "validation_matched", "test": "test_matched"}


def load_glue(name: str, schema: Schema) -> Dataset:
    """Loads a GLUE task; the first time, TFDS downloads it and prepares it in bertjax's cache.

    Args:
      name: one of `GLUE`.
      schema: its columns, by TFDS's names.

    Raises:
      UserError: the download or the preparation failed.
    """
    try:
        data_dir = cache_dir() / "tfds"
        builder = Glue(config=name, version=VERSION, data_dir=data_dir, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            # TFDS checks every file whose checksum it knows; this refuses files whose checksum it does not know.
            checked = tfds.download.DownloadConfig(force_checksums_validation=True)
            builder.download_and_prepare(download_config=checked)
        names = _MNLI_SPLITS if name == "mnli" else _SPLITS
        sources = {split: builder.as_data_source(tfds_split) for split, tfds_split in names.items()}
    except Exception as error:  # TFDS does not wrap what its transport raises
        cause = reason(error)
        if isinstance(error, NonMatchingChecksumError):  # its message is long, and the URL alone matters
            cause = f"{cause.partition(', ')[0].removeprefix('Artifact ')} has another checksum than TFDS knows"
        raise UserError(
            f"--config.task: {name} is downloaded through TFDS, as glue/{name}, which failed ({cause}); "
            "check the network, or choose a task with files of your own"
        ) from error
    return Dataset(
        name=name,
        fingerprint=f"glue/{name}:{VERSION}",
        labels=f"GLUE's, from TFDS glue/{name} {VERSION}",
        splits={split: LazyExamples(source, partial(_to_example, schema)) for split, source in sources.items()},
        unlabelled=("test",),
    )


def _to_example(schema: Schema, record: Mapping[str, Any]) -> Example:
    texts = dict(zip(("text", "text_pair"), (record[column] for column in schema.texts), strict=False))
    return to_python({**texts, "label": record[schema.label]}) | {"id": str(int(record["idx"]))}
