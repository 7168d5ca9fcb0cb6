"""Finds a checkpoint: from a starter's name, a folder, a run, or a hub name to the folder with its files."""

import os
import re
from pathlib import Path

from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.files.paths import user_path
from bertjax.pretrained import hub
from bertjax.pretrained.encoder_files import CONFIG_FILES, read_small_json
from bertjax.pretrained.unread_formats import explain_unread_weights, refuse_adapters
from bertjax.pretrained.weight_files import has_weights
from bertjax.runs.run_result import RESULT_FILE

STARTER = "minilm-l6"
"""The default checkpoint."""

STARTERS = (STARTER, "mpnet-base")
"""Checkpoints that come from the package index; both were trained as sentence encoders, on pairs."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def resolve_checkpoint(source: str | os.PathLike[str]) -> Path:
    """The folder with a checkpoint's architecture and vocabulary, fetched if needed.

    Args:
      source: `minilm-l6` or `mpnet-base` (the starters), a folder that `load_pretrained` reads, the folder of a
        finished run (gives its `encoder`), or a hub name such as `owner/model` or `owner/model@revision`.

    Raises:
      UserError: the source is none of these, cannot be fetched, or is an unfinished run.
    """
    if source in STARTERS:
        return assets.fetch_asset(os.fspath(source))
    folder = user_path(source)
    if folder.is_dir():
        if find_run(folder) == folder:
            return folder / "encoder"
        _check_is_whole(folder)
        return folder
    if not is_hub_name(source):
        raise UserError(
            f"init_from: {os.fspath(source)!r} is neither {' nor '.join(map(repr, STARTERS))}, nor a folder, nor a hub "
            "name such as 'bert-base-uncased' or 'owner/model@revision'"
        )
    return hub.fetch_model(os.fspath(source))


def _check_is_whole(folder: Path) -> None:
    """UserError if a folder has PEFT's adapters, an encoder in a subfolder, or no config and unread weights."""
    refuse_adapters(folder)
    if has_weights(folder):
        return
    if (path := folder / "modules.json").is_file():  # of sentence-transformers
        modules = read_small_json(path, [{"path": str, "type": str}])
        places = [module["path"] for module in modules if module["type"].endswith(".Transformer") and module["path"]]
        if places:
            raise UserError(
                f"{path}: expected the encoder in the same folder, found it in the subfolder {places[0]!r:.200}; pass "
                f"{str(folder / places[0])!r:.400}"
            )
    if not any((folder / name).exists() for name in CONFIG_FILES) and (line := explain_unread_weights(folder)):
        raise UserError(line)


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Whether a source has the form of a hub name, and is not a path that exists."""
    name = os.fspath(source)
    return _HUB_NAME.fullmatch(name) is not None and not name.startswith((".", "/")) and not Path(name).exists()


def find_run(folder: Path) -> Path | None:
    """The finished run whose folder this is, or whose `encoder`; None if it is neither.

    Raises:
      UserError: the run is not finished.
    """
    if folder.name == "encoder" and (folder.parent / RESULT_FILE).is_file():
        return folder.parent
    if not (folder / "encoder").is_dir() or has_weights(folder):
        return None
    if not (folder / RESULT_FILE).is_file():
        raise UserError(
            f"{folder}: expected a finished run, found one without {RESULT_FILE}; finish it with its own command"
        )
    return folder


def is_sentence_encoder(source: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint was trained to represent a sentence by the mean of its hidden states.

    True for the starters, and for a sentence-transformers folder with mean pooling alone in `1_Pooling/config.json`
    and no dense layer after it.

    Raises:
      UserError: see `resolve_checkpoint`; or that file is broken.
    """
    if source in STARTERS:
        return True
    folder = resolve_checkpoint(source)
    pooling = folder / "1_Pooling" / "config.json"
    if not pooling.is_file() or other_modules(folder):
        return False
    modes = [name for name, value in read_small_json(pooling, {}).items() if name.startswith("pooling_mode_") and value]
    return modes == ["pooling_mode_mean_tokens"]


def other_modules(folder: Path) -> list[str]:
    """What a sentence-transformers folder computes beyond encoder, pooling and normalisation, such as "2_Dense"."""
    path = folder / "modules.json"
    modules = read_small_json(path, [{"path": str, "type": str}]) if path.is_file() else []
    usual = (".Transformer", ".Pooling", ".Normalize")
    return [module["path"] for module in modules if not module["type"].endswith(usual)]
