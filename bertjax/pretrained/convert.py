"""Converts a checkpoint from any format to a folder with Orbax parameters."""

import os
from pathlib import Path

from bertjax.files.atomic import new_folder, write_json
from bertjax.files.paths import user_path
from bertjax.pretrained.encoder_files import copy_encoder_files
from bertjax.pretrained.formats import orbax_folder
from bertjax.pretrained.head_metadata import write_head_metadata
from bertjax.pretrained.lineage import LINEAGE_FILE, read_lineage
from bertjax.pretrained.load import PARAMS_FOLDER, read_checkpoint
from bertjax.pretrained.source import resolve_checkpoint


def convert(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Writes a checkpoint as a folder for `init_from`: Orbax parameters, small files, lineage, what its heads predict.

    The parameters equal those of `load_pretrained` bit for bit, heads included. A missing pooler stays missing.

    Args:
      source: see `load_pretrained`.
      out: the folder to write; it must not exist.

    Returns:
      The folder.

    Raises:
      UserError: the source cannot be read, or `out` exists or cannot be written. Nothing is left behind.
    """
    out = user_path(out)
    with new_folder(out) as partial:
        folder = resolve_checkpoint(source)
        _, params = read_checkpoint(folder)
        copy_encoder_files(folder, partial)
        write_json(partial / LINEAGE_FILE, read_lineage(source))
        write_head_metadata(folder, partial)
        orbax_folder.write_orbax(partial / PARAMS_FOLDER, params)
    return out
