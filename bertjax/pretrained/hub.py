"""Fetches checkpoints from the Hugging Face hub: one commit, reported on stderr, with every file's hash checked."""

import functools
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.pretrained.unread_formats import refuse_adapters


class Commit(NamedTuple):
    """A model at one commit.

    Attributes:
      repository: the model's name on the hub.
      sha: the commit.
      hashes: expected hash of each file, SHA-256 or for files in Git, Git's own; None if only the local cache is known.
    """

    repository: str
    sha: str
    hashes: Mapping[str, str] | None


PINS: Mapping[str, Commit] = {
    "bert-base-uncased": Commit(
        "bert-base-uncased",
        "86b5e0934494bd15c9632b12f734a8a67f723594",
        {
            "model.safetensors": "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    ),
}
"""The commits of names that recipes use."""
_SMALL_FILES = ["config.json", "bert_config.json", "vocab.txt", "tokenizer*", "lineage.json"]
_SMALL_FILES += ["special_tokens_map.json", "added_tokens.json", "adapter_config.json", "spm.model"]

# The second only if the first does not exist: no model is fetched twice.
_WEIGHTS = {
    "model.safetensors": ["*.safetensors", "*.safetensors.index.json"],
    "pytorch_model.bin": ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"],
}
_LIKE_WEIGHTS = re.compile(r"\.(safetensors|bin|h5|msgpack|ckpt|pth?|onnx|gguf|ot)$")
_GIT_HASH = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def pinned_name(name: str) -> str:
    """The name with its commit, `owner/model@COMMIT`; UserError if neither hub nor cache knows it."""
    commit = _find_commit(name)
    return f"{commit.repository}@{commit.sha}"


def fetch_model(name: str) -> Path:
    """The folder with a model's files, downloaded unless the hub client's cache has them.

    Args:
      name: `owner/model` or `owner/model@revision`. A name in `PINS` means its pinned commit. Any other means the
        revision's current commit on the hub, or in the cache if the hub does not answer; a line on stderr names it.

    Raises:
      UserError: the model cannot be downloaded, has no weights in a supported format, or a file's hash is wrong; that
        file is removed.
    """
    commit = _find_commit(name)
    for weights, patterns in _WEIGHTS.items():
        patterns = [*_SMALL_FILES, *patterns]
        try:
            folder = _download(commit, patterns)
        except Exception as error:  # the client's errors have no common base across its versions
            raise _unavailable(name, error) from error
        if (folder / weights).is_file() or (folder / f"{weights}.index.json").is_file():
            for path in sorted(folder.iterdir()):
                if path.is_file() and any(path.match(pattern) for pattern in patterns):
                    _check_hash(path, commit)
            return folder
    refuse_adapters(folder)
    others = sorted(file for file in commit.hashes or () if _LIKE_WEIGHTS.search(file))
    raise UserError(
        f"init_from: {pinned_name(name)}: expected {' or '.join(_WEIGHTS)}, found "
        f"{', '.join(others[:3]) or 'neither'}; download the folder and pass its path, for a command that converts it, "
        "or use another model"
    )


@functools.cache  # a run asks more than once, and a branch may move in between
def _find_commit(name: str) -> Commit:
    repository, _, revision = name.partition("@")
    pin = PINS.get(repository)
    if pin is not None and revision in ("", pin.sha):
        return pin
    # Takes half a second to import, and most runs do not need it.
    import huggingface_hub

    try:
        info = huggingface_hub.model_info(repository, revision=revision or None, files_metadata=True)
        sha = info.sha or ""
        if not _GIT_HASH.fullmatch(sha):
            raise ValueError(f"expected a commit, found {sha!r}")
    except Exception as error:
        commit = _cached_commit(repository, revision)
        if commit is None:
            raise _unavailable(name, error) from error
        print(
            f"warning: no answer from the hub ({_first_line(error)}); its local cache has {repository}@{commit.sha}",
            file=sys.stderr,
        )
        return commit
    if sha != revision:
        print(
            f"bertjax: {name} is now {repository}@{sha}; pin it with --config.init_from={repository}@{sha}",
            file=sys.stderr,
        )
    return Commit(repository, sha, {file.rfilename: _stated_hash(file) for file in info.siblings or ()})


def _cached_commit(repository: str, revision: str) -> Commit | None:
    """The commit of a revision when it was last downloaded."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=_SMALL_FILES, local_files_only=True
        )
    except Exception:  # the caller reports the hub's error instead
        return None
    return Commit(repository, Path(folder).name, None)


def _stated_hash(file: Any) -> str:
    return (file.lfs.sha256 if file.lfs else file.blob_id) or ""


def _download(commit: Commit, patterns: list[str]) -> Path:
    import huggingface_hub

    snapshot = functools.partial(
        huggingface_hub.snapshot_download, commit.repository, revision=commit.sha, allow_patterns=patterns
    )
    if commit.hashes is None:
        return Path(snapshot(local_files_only=True))
    try:
        return Path(snapshot())
    except Exception as error:
        try:
            return Path(snapshot(local_files_only=True))
        except Exception:
            raise error from None


def _check_hash(path: Path, commit: Commit) -> None:
    """Removes a file with a wrong hash and raises UserError; raises too if the hash of weights is unknown."""
    blob = path.resolve()
    expected = (commit.hashes or {}).get(path.name) or blob.name  # the cache names a file by its expected hash
    where = f"{commit.repository}@{commit.sha}"
    if not _HASH.fullmatch(expected):
        if path.suffix in (".safetensors", ".bin"):
            raise UserError(
                f"{path}: expected a file with a hash stated by {where}, found none; download it when the hub can be "
                "reached, or pass its folder"
            )
        return
    try:
        found = _file_hash(blob, blob.stat().st_mtime_ns, is_git=len(expected) == 40)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if found == expected:
        return
    try:
        path.unlink()
        if blob.parent == path.parents[2].resolve() / "blobs":
            blob.unlink(missing_ok=True)
        advice = "it was removed; run again to download it"
    except OSError as error:
        advice = f"it cannot be removed ({error.strerror}); remove it and run again to download it"
    kind = "Git's hash" if len(expected) == 40 else "SHA-256"
    raise UserError(f"{path}: expected {kind} {expected}, as {where} states, found {found}; {advice}")


@functools.cache  # half a gigabyte takes a second, and a run checks more than once
def _file_hash(path: Path, modified_ns: int, *, is_git: bool) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if is_git else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    # The rest is the library's own advice; the message ends with ours.
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _unavailable(name: str, error: Exception) -> UserError:
    return UserError(
        f"init_from: no folder {name!r} here, and the hub gave no model of that name: {_first_line(error)}; "
        "download the checkpoint and pass its folder, or use --config.init_from=minilm-l6 or mpnet-base"
    )
