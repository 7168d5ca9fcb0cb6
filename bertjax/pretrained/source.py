"""Where a checkpoint comes from: the folder that holds it, its architecture, and what it was trained on."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files import assets, atomic, json_files
from bertjax.files.json_files import MIB, read_json
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale
from bertjax.models.config import BertConfig
from bertjax.pretrained import hub
from bertjax.runs import run_result
from bertjax.runs.run_result import label_scales, read_result

STARTER = "minilm-l6"


CONFIGS = ("config.json", "bert_config.json")
"""Names of the architecture's file: Hugging Face's, and Google's where that is missing."""


VOCABULARY = ("vocab.txt", "tokenizer_config.json", "tokenizer.json")


LINEAGE_FILE = "lineage.json"
"""What a converted or exported checkpoint was trained on."""


LABELS_FILE = "labels.json"
"""Of a converted checkpoint: the names of its heads' classes."""


SCALES_FILE = "label_scales.json"
"""Of a converted checkpoint: mean and std of the labels of its heads of scores."""


_REMEDY = "get the file again"


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
        return assets.fetch_asset(STARTER)
    folder = user_path(source)
    if folder.is_dir():
        return folder if run_of(folder) != folder else folder / "encoder"
    if not _is_hub_name(source):
        raise UserError(
            f"init_from: {os.fspath(source)!r} is neither {STARTER!r}, nor a folder, nor a hub name such as "
            "'bert-base-uncased' or 'owner/model@revision'"
        )
    return hub.fetch_model(os.fspath(source))


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


def read_model_config(folder: Path) -> BertConfig:
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
    values: dict[str, Any] = _read_json(path)
    json_files.check_shape(values, {}, path, _REMEDY)
    return values


def head_labels(source: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The names of the classes of a checkpoint's heads, by "head_TASK" or "classifier", where they are known.

    Those of a run are in its result, which `convert` keeps; those of a classifier in its config.json, which
    Transformers calls LABEL_0 and so on where nobody has named them.

    Raises:
      UserError: a run that is not finished, or a file that is broken.
    """
    folder = resolve(source)
    run = run_of(folder)
    if run is not None:
        datasets = read_result(run)["datasets"]
        return {f"head_{name}": data["label_names"] for name, data in datasets.items() if "label_names" in data}
    if (folder / LABELS_FILE).is_file():
        kept: dict[str, list[str]] = _read_json(folder / LABELS_FILE)
        json_files.check_shape(kept, {str: [str]}, folder / LABELS_FILE, _REMEDY)
        return kept
    return {"classifier": names} if (names := _classes(folder)) else {}


def head_scales(source: str | os.PathLike[str]) -> dict[str, LabelScale]:
    """The scales of the labels that heads of scores were trained on, by "head_TASK" or "classifier", where known.

    Those of a run are in its result, which `convert` keeps, and `export` in config.json.

    Raises:
      UserError: a run that is not finished, or a file that is broken.
    """
    folder = resolve(source)
    run = run_of(folder)
    if run is not None:
        return {f"head_{name}": scale for name, scale in label_scales(read_result(run)).items()}
    if (path := folder / SCALES_FILE).is_file():
        kept = _read_json(path)
        json_files.check_shape(kept, {str: run_result.LABEL_SCALE_SHAPE}, path, _REMEDY)
        return {head: _scale(scale, path) for head, scale in kept.items()}
    path = config_path(folder)
    config = read_object(path)
    if config.get("label_scale") is None:
        return {}
    json_files.check_shape(config, {"label_scale": run_result.LABEL_SCALE_SHAPE}, path, _REMEDY)
    return {"classifier": _scale(config["label_scale"], path)}


def _scale(values: Mapping[str, float], path: Path) -> LabelScale:
    try:
        return LabelScale(values["mean"], values["std"])
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: label_scale: {error}; {_REMEDY}") from None


def _classes(folder: Path) -> list[str]:
    """Those of config.json, in order; none where they have no names, or not one for each."""
    names = read_object(config_path(folder)).get("id2label")
    found: list[Any] = [names.get(str(i)) for i in range(len(names))] if isinstance(names, dict) else []
    is_named = all(isinstance(name, str) and not re.fullmatch(r"LABEL_\d+", name) for name in found)
    return found if is_named else []


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
    folder = user_path(source)
    past: list[dict[str, Any]]
    if source != STARTER and folder.is_dir():
        run = run_of(folder)
        if run is not None:
            past = read_result(run)["lineage"]
            return past
        if (folder / LINEAGE_FILE).is_file():
            past = _read_json(folder / LINEAGE_FILE)
            json_files.check_shape(past, run_result.LINEAGE_SHAPE, folder / LINEAGE_FILE, "mend it, or delete it")
            return past
    name = os.fspath(source)
    entry = {"init_from": hub.full_name(name) if source != STARTER and _is_hub_name(source) else name}
    if source == STARTER:
        entry["note"] = "its own training saw Quora duplicates, SNLI and MultiNLI"
    return [entry]


def is_sentence_encoder(source: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint was trained so that the mean of its hidden states stands for a sentence.

    True for the starter, and for a sentence-transformers folder whose `1_Pooling/config.json` selects mean pooling.

    Raises:
      UserError: from `resolve`, or that file is broken.
    """
    if source == STARTER:
        return True
    pooling = resolve(source) / "1_Pooling" / "config.json"
    return pooling.is_file() and read_object(pooling).get("pooling_mode_mean_tokens") is True


def encoder_files(folder: Path) -> dict[str, Path]:
    """What a model needs besides parameters, its architecture as config.json; errors as of `config_path`."""
    return {CONFIGS[0]: config_path(folder)} | {name: folder / name for name in VOCABULARY if (folder / name).is_file()}


def keep_encoder(folder: Path, kept: Path) -> None:
    """Copies the small files of a checkpoint, by the names of `small_files_of`.

    Args:
      folder: of a checkpoint.
      kept: the folder to copy to, made if it is not there. Links that stand there are replaced, not followed.

    Raises:
      UserError: a file cannot be read or written.
    """
    try:
        if kept.is_symlink():
            kept.unlink()
        kept.mkdir(exist_ok=True)
        for name, path in encoder_files(folder).items():
            atomic.replace_file(kept / name, path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{kept}: {folder} cannot be copied there ({error.strerror}); free space, or make the folder writable, and "
            "run the same command again"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return read_json(path, MIB, _REMEDY)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {_REMEDY}") from None
