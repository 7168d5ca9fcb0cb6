"""Listed members of a zip or tar archive, and of an archive inside it, as plain files."""

import contextlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from bertjax.errors import UserError

_CHUNK = 2**20
_BUG = "please report this as a bug in bertjax"
"""The archive's hash is right, so the list of members must be wrong."""


def unpack(path: Path, members: Mapping[str, tuple[str, int]], folder: Path, name: str) -> None:
    """Writes the listed members of an archive into a folder, in constant memory.

    Args:
      path: a zip file (such as a wheel) or a tar file.
      members: for each path in the archive, the file's name in the folder and its maximum size in bytes.
        "a.tar.gz!/b" is the member b of the tar file a.tar.gz in the archive.
      folder: an existing folder.
      name: what the archive holds, for error messages.

    Raises:
      UserError: a member is missing, is no plain file, or is too large.
      OSError: a file cannot be written.
    """
    for member, (file_name, max_bytes) in members.items():
        *containers, leaf = member.split("!/")
        with contextlib.ExitStack() as stack:
            archive = _open_archive(path)
            stack.enter_context(archive)
            for container in containers:
                inner = stack.enter_context(_open_member(archive, container, name))
                archive = stack.enter_context(tarfile.open(fileobj=inner))
            source = stack.enter_context(_open_member(archive, leaf, name))
            (folder / file_name).parent.mkdir(exist_ok=True)
            with (folder / file_name).open("wb") as target:
                while chunk := source.read(_CHUNK):
                    if target.tell() + len(chunk) > max_bytes:
                        raise UserError(f"{name}: {member} has more than {max_bytes} bytes; {_BUG}")
                    target.write(chunk)


def join_slices(slices: Iterable[tuple[Path, str]], joined: Path, name: str) -> None:
    """Concatenates a member of each of several archives to one file, in constant memory.

    Args:
      slices: the archives, in order, and the path of the slice in each.
      joined: the file to write; an existing one is overwritten.
      name: what the archives hold, for error messages.

    Raises:
      UserError: a slice is missing or is no plain file.
      OSError: the file cannot be written.
    """
    with joined.open("wb") as target:
        for path, member in slices:
            with _open_archive(path) as archive, _open_member(archive, member, name) as source:
                shutil.copyfileobj(source, target, _CHUNK)


def _open_archive(path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path)


def _open_member(archive: zipfile.ZipFile | tarfile.TarFile, member: str, name: str) -> IO[bytes]:
    """Opens a member by its exact path if it is a plain file; a link could point anywhere."""
    with contextlib.suppress(KeyError):
        if isinstance(archive, zipfile.ZipFile):
            entry = archive.getinfo(member)
            if not entry.is_dir() and stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG):
                return archive.open(entry)
        else:
            info = archive.getmember(member)
            file = archive.extractfile(info) if info.isreg() else None
            if file is not None:
                return file
    raise UserError(f"{name}: expected the plain file {member} in the archive, found none; {_BUG}")
