"""Where a checkpoint comes from: the folder that holds it, its architecture, and what it was trained on."""

import os
import re
from pathlib import Path
from typing import Any

from bertjax import assets, run_result, shape, whole_file
from bertjax.bert_config import BertConfig
from bertjax.errors import UserError
from bertjax.pretrained import hub
from bertjax.run_result import read_result
from bertjax.small_files import MIB, read_json

STARTER = "minilm-l6"
CONFIGS = ("config.json", "bert_config.json")
"""Names of the architecture's file: Hugging Face's, and Google's where that is missing."""
VOCABULARY = ("vocab.txt", "tokenizer_config.json", "tokenizer.json")
LINEAGE = "lineage.json"
"""What a converted or exported checkpoint was trained on."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def resolve(source: str | os.PathLike[str]) -> Path:
    """The folder that holds a checkpoint's architecture and vocabulary; `load_pretrained` takes it too.

    Args:
      source: `minilm-l6` (the starter), a folder as `load_pretrained` reads it, a finished run's (the folder is then
        its `encoder`), or a hub name, with `@revision` if wanted.

    Raises:
      UserError: none of these is to be had, or a run that is not finished.
    """
    if source == STARTER:
        return assets.fetch(STARTER)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder if run_of(folder) != folder else folder / "encoder"
    if not _is_hub_name(source):
        raise UserError(
            f"init_from: {os.fspath(source)!r} is neither {STARTER!r}, nor a folder, nor a hub name such as "
            "'bert-base-uncased' or 'owner/model@revision'"
        )
    return hub.fetch(os.fspath(source))


def _is_hub_name(source: str | os.PathLike[str]) -> bool:
    name = os.fspath(source)
    return _HUB_NAME.fullmatch(name) is not None and not name.startswith((".", "/")) and not Path(name).exists()


def run_of(folder: Path) -> Path | None:
    """The folder of the finished run that `folder` or, for a run's `encoder`, its parent is; None for anything else.

    Raises:
      UserError: a run that is not finished.
    """
    if folder.name == "encoder" and (folder.parent / "result.json").is_file():
        return folder.parent
    if not (folder / "encoder").is_dir():
        return None
    if not (folder / "result.json").is_file():
        raise UserError(
            f"{folder}: expected a finished run, found one without result.json; finish it by its own command"
        )
    return folder


def read_config(folder: Path) -> BertConfig:
    """Reads `config.json`, or else `bert_config.json`; UserError where neither is there, or it describes no BERT."""
    path = config_path(folder)
    values = read_object(path)
    try:
        return BertConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_path(folder: Path) -> Path:
    """The file that describes the architecture; UserError where there is none."""
    for name in CONFIGS:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder / CONFIGS[0]}: not found; a checkpoint folder needs config.json")


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object; UserError where the file cannot be read or holds something else."""
    values = _read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def head_labels(source: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The names of the classes of each head of a run, by its task; nothing for anything else but a run."""
    folder = Path(source).expanduser()
    run = run_of(folder) if source != STARTER and folder.is_dir() else None
    datasets = {} if run is None else read_result(run)["datasets"]
    return {name: data["label_names"] for name, data in datasets.items() if "label_names" in data}


def lineage(source: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What a checkpoint was trained on, as far as it is known, oldest first.

    Args:
      source: as `resolve` takes it.

    Returns:
      For a run, the lineage in its `result.json`; for a converted or exported folder, its `lineage.json`; for
      anything else, {"init_from": source} alone, with the commit of a hub name, and a note where we know more.

    Raises:
      UserError: a run that is not finished, a file that does not say, or a hub name that nobody knows.
    """
    folder = Path(source).expanduser()
    past: list[dict[str, Any]]
    if source != STARTER and folder.is_dir():
        run = run_of(folder)
        if run is not None:
            past = read_result(run)["lineage"]
            return past
        if (folder / LINEAGE).is_file():
            past = _read_json(folder / LINEAGE)
            shape.check(past, run_result.LINEAGE, folder / LINEAGE, "mend it, or delete it")
            return past
    name = os.fspath(source)
    entry = {"init_from": hub.full_name(name) if source != STARTER and _is_hub_name(source) else name}
    if source == STARTER:
        entry["note"] = "its own training saw Quora duplicates, SNLI and MultiNLI"
    return [entry]


def keep_encoder(folder: Path, kept: Path) -> None:
    """Copies the small files that a model needs besides parameters: the architecture, as config.json, and vocabulary.

    Args:
      folder: of a checkpoint.
      kept: the folder to copy to, made if it is not there. Links that stand there are replaced, not followed.

    Raises:
      UserError: a file cannot be read or written.
    """
    copies = {CONFIGS[0]: config_path(folder)}
    copies |= {name: folder / name for name in VOCABULARY if (folder / name).is_file()}
    try:
        if kept.is_symlink():
            kept.unlink()
        kept.mkdir(exist_ok=True)
        for name, path in copies.items():
            whole_file.write(kept / name, path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{kept}: {folder} cannot be copied there ({error.strerror}); free space, or make the folder writable, and "
            "run the same command again"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return read_json(path, MIB)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); get the file again") from None
