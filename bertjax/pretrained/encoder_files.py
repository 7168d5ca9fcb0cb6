"""A checkpoint's small files: its architecture (config.json), vocabulary and tokenizer settings."""

from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.atomic import replace_file
from bertjax.files.json_files import read_json
from bertjax.models.config import BertConfig
from bertjax.models.families import config_from_dict

CONFIG_FILES = ("config.json", "bert_config.json")
"""Hugging Face's name, and Google's."""
TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""What together describes a tokenizer."""


def config_path(folder: Path) -> Path:
    """The path of `config.json`, or else of `bert_config.json`; UserError if neither exists."""
    for name in CONFIG_FILES:
        if (folder / name).exists():
            return folder / name
    # Such as a trainer's checkpoint-1000, or snapshots/COMMIT in the cache of the hub's client.
    places = sorted(
        path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/{CONFIG_FILES[0]}")
    )
    advice = f"pass {places[-1]}" if places else "a checkpoint folder needs config.json"
    raise UserError(f"{folder / CONFIG_FILES[0]}: not found; {advice}")


def read_model_config(folder: Path) -> BertConfig:
    """Reads the architecture; UserError if there is no config file, or it describes no known family."""
    path = config_path(folder)
    values = read_small_json(path, {})
    try:
        return config_from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_small_json(path: Path, shape: Any, remedy: str = "get the file again") -> Any:
    """Reads one of a checkpoint's JSON files; UserError if it is missing, broken or of another shape."""
    try:
        return read_json(path, remedy, shape)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {remedy}") from None


def encoder_files(folder: Path) -> dict[str, Path]:
    """The files a model needs besides its parameters, by their names in a copy; UserError without a config file."""
    tokenizer_files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    return {CONFIG_FILES[0]: config_path(folder)} | tokenizer_files


def copy_encoder_files(folder: Path, target: Path) -> None:
    """Copies the `encoder_files` of a checkpoint.

    Args:
      folder: the checkpoint.
      target: the folder to copy to, created if needed. Links in it are replaced, not followed.

    Raises:
      UserError: a file cannot be read or written.
    """
    try:
        if target.is_symlink():
            target.unlink()
        target.mkdir(exist_ok=True)
        files = encoder_files(folder)
        for name, path in files.items():
            replace_file(target / name, path.read_bytes())
        for name in set(TOKENIZER_FILES) - files.keys():  # of another tokenizer
            (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{target}: {folder} cannot be copied there ({error.strerror}); free space or make the folder writable, "
            "then run the same command again"
        ) from None
