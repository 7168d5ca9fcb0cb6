"""From any format that is read to a folder of our own."""

import dataclasses
import os
from pathlib import Path

from bertjax.files.atomic import new_folder, write_json
from bertjax.files.paths import user_path
from bertjax.pretrained.formats import orbax_folder
from bertjax.pretrained.load import PARAMS, read_checkpoint
from bertjax.pretrained.source import (
    LABELS_FILE,
    LINEAGE_FILE,
    SCALES_FILE,
    head_labels,
    head_scales,
    keep_encoder,
    lineage,
    resolve,
)


def convert(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Writes a checkpoint as a folder that `init_from` takes: small files, lineage, labels and Orbax parameters.

    The parameters are those of `load_pretrained` bit for bit, heads included; what the checkpoint lacks is not made up.

    Args:
      source: as `load_pretrained` takes it.
      out: the folder to write, which must not be there.

    Raises:
      UserError: the source cannot be read, or `out` is there or cannot be written; nothing is then left behind.
    """
    out = user_path(out)
    with new_folder(out) as partial:
        folder = resolve(source)
        _, params = read_checkpoint(folder)
        keep_encoder(folder, partial)
        write_json(partial / LINEAGE_FILE, lineage(source))
        if (labels := head_labels(folder)).keys() - {"classifier"}:  # whose are in config.json
            write_json(partial / LABELS_FILE, labels)
        if (scales := head_scales(folder)).keys() - {"classifier"}:
            write_json(partial / SCALES_FILE, {head: dataclasses.asdict(scale) for head, scale in scales.items()})
        orbax_folder.write_orbax(partial / PARAMS, params)
    return out
