"""Checkpoints from the Hugging Face hub: of one commit, which is told, and every file checked against its hash."""

import functools
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.errors import UserError


class Commit(NamedTuple):
    """A model at one commit.

    Attributes:
      repository: its name at the hub.
      sha: the commit.
      hashes: SHA-256 of its files, or Git's hash of those that the hub keeps in Git, by name; None for what is taken
        out of the local cache.
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
"""What the names that our recipes use stand for."""


_SMALL_FILES = ["config.json", "bert_config.json", "vocab.txt", "tokenizer*", "lineage.json"]


# In this order, and the next only where the one before is not there: no model is fetched twice.
_WEIGHTS = {
    "model.safetensors": ["*.safetensors", "*.safetensors.index.json"],
    "pytorch_model.bin": ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"],
}


_GIT_HASH = re.compile(r"[0-9a-f]{40}")


_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def full_name(name: str) -> str:
    """`owner/model@COMMIT`, whatever revision `name` asks for; UserError where nobody knows it."""
    commit = _find(name)
    return f"{commit.repository}@{commit.sha}"


def fetch_model(name: str) -> Path:
    """The folder with a model's files, fetched where the hub's own cache does not hold them yet.

    Args:
      name: `owner/model` or `owner/model@revision`; one of `PINS` stands for its pinned commit, any other for what the
        hub, or without it the cache, has there now; which commit that is, stderr is told.

    Raises:
      UserError: no such model to be had, one without weights that we read, or a file of another hash than the hub
        states, which is then removed.
    """
    commit = _find(name)
    for weights, patterns in _WEIGHTS.items():
        patterns = [*_SMALL_FILES, *patterns]
        try:
            folder = _download(commit, patterns)
        except Exception as error:  # those of the client's transport have no base in common across its versions
            raise _unobtainable(name, error) from error
        if (folder / weights).is_file() or (folder / f"{weights}.index.json").is_file():
            for path in sorted(folder.iterdir()):
                if path.is_file() and any(path.match(pattern) for pattern in patterns):
                    _check(path, commit)
            return folder
    raise UserError(
        f"init_from: {full_name(name)}: expected {' or '.join(_WEIGHTS)}, found neither; convert what it has, or name "
        "another model"
    )


@functools.cache  # a run asks more than once, and a branch may move in between
def _find(name: str) -> Commit:
    repository, _, revision = name.partition("@")
    pin = PINS.get(repository)
    if pin is not None and revision in ("", pin.sha):
        return pin
    # The client costs half a second to import, and most runs never need it.
    import huggingface_hub

    try:
        info = huggingface_hub.model_info(repository, revision=revision or None, files_metadata=True)
        sha = info.sha or ""
        if not _GIT_HASH.fullmatch(sha):
            raise ValueError(f"expected a commit, found {sha!r}")
    except Exception as error:
        commit = _cached(repository, revision)
        if commit is None:
            raise _unobtainable(name, error) from error
        print(
            f"warning: no answer from the hub ({_reason(error)}); its local cache has {repository}@{commit.sha}",
            file=sys.stderr,
        )
        return commit
    if sha != revision:
        print(
            f"bertjax: {name} is {repository}@{sha} now; pass that as init_from to keep to it",
            file=sys.stderr,
        )
    return Commit(repository, sha, {file.rfilename: _stated(file) for file in info.siblings or ()})


def _cached(repository: str, revision: str) -> Commit | None:
    """What a revision was when it was last asked for."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=_SMALL_FILES, local_files_only=True
        )
    except Exception:  # what went wrong before this is what the user should hear of
        return None
    return Commit(repository, Path(folder).name, None)


def _stated(file: Any) -> str:
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


def _check(path: Path, commit: Commit) -> None:
    """UserError, and the file is gone, where it is not what the hub states; or where nobody states what weights are."""
    blob = path.resolve()
    expected = (commit.hashes or {}).get(path.name) or blob.name  # the cache names a file by the hash it should have
    where = f"{commit.repository}@{commit.sha}"
    if not _HASH.fullmatch(expected):
        if path.suffix in (".safetensors", ".bin"):
            raise UserError(
                f"{path}: expected a file whose hash {where} states, found one without; download it while the hub can "
                "be reached, or pass its folder"
            )
        return
    try:
        found = _hash(blob, blob.stat().st_mtime_ns, is_git=len(expected) == 40)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if found == expected:
        return
    try:
        path.unlink()
        if blob.parent == path.parents[2].resolve() / "blobs":
            blob.unlink(missing_ok=True)
        advice = "it was removed; run again to fetch it anew"
    except OSError as error:
        advice = f"it cannot be removed ({error.strerror}): remove it, and run again to fetch it anew"
    kind = "Git's hash" if len(expected) == 40 else "SHA-256"
    raise UserError(f"{path}: expected {kind} {expected}, as {where} states, found {found}; {advice}")


@functools.cache  # half a gigabyte takes a second, and a run asks more than once
def _hash(path: Path, changed: int, *, is_git: bool) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if is_git else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    # Its first line: what follows is that library's own advice, beside ours.
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _unobtainable(name: str, error: Exception) -> UserError:
    return UserError(
        f"init_from: no folder {name!r} here, and the hub gave no model of that name: {_reason(error)}; "
        "download the checkpoint and pass its folder, or use --config.init_from=minilm-l6"
    )
