from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.files.paths import user_path


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/runs/a") == Path("/somewhere/runs/a")
    assert user_path("runs/~a") == Path("runs/~a")


def test_an_unknown_home_folder():
    with pytest.raises(UserError, match=r"^~nobody-of-that-name/x: expected a home folder at '~', found none"):
        user_path("~nobody-of-that-name/x")
