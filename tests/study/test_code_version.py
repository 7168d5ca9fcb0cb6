import subprocess

from bertjax.study import code_version
from tools.manual import ROOT


def test_the_whole_package_counts():
    assert code_version._PACKAGE == ROOT / "bertjax"


def test_the_commit_of_a_checkout_and_whether_it_is_changed(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    def version():
        code_version.code_version.cache_clear()
        return code_version.code_version().split()[1:]

    monkeypatch.setattr(code_version, "_PACKAGE", tmp_path)
    assert version() == []  # no checkout
    git("init")
    (tmp_path / "__init__.py").touch()
    assert version() == []  # a checkout, but of something else
    git("add", "__init__.py")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-m", "a")
    (clean,) = version()
    assert len(clean) >= 7
    (tmp_path / "__init__.py").write_text("changed")
    assert version() == [f"{clean}+"]
    code_version.code_version.cache_clear()
