"""Runs the code blocks of README.md and of the manual in order.

    python -m tools.manual [PAGE ...]

`bash` and `python` blocks run in one temporary folder that all pages share. The Python blocks of a page form one
script, which runs after the page's `bash` blocks. `<!-- not run: REASON -->` before a block skips it. Training stops
after two updates of short texts, which need few compilations, and evaluation skips smoothness.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SHORT = """
set -euo pipefail
python() {
  case "${1-}" in
    train.py) command python "$@" --config.max_steps=2 --config.max_length=16 ;;
    eval.py) if [[ "$*" == *--split* ]]; then command python "$@" --radius=0; else command python "$@"; fi ;;
    *) command python "$@" ;;
  esac
}
"""
BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced code block; `why` is the reason not to run it, or None."""

    language: str
    code: str
    why: str | None


def pages() -> list[Path]:
    """README.md and the manual's pages, in the order of the table of contents."""
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in listed)]


def blocks(page: Path) -> list[Block]:
    """Returns all code blocks of a page, in order."""
    return [Block(match["language"], match["code"], match["why"]) for match in BLOCK.finditer(page.read_text())]


def main() -> None:
    """Runs the given pages, or all; stops at the first block that fails."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("configs", "train.py", "eval.py"):
            os.symlink(ROOT / name, Path(folder, name))
        for page in chosen:
            runnable = [block for block in blocks(page) if block.why is None]
            scripts = [block.code for block in runnable if block.language == "python"]
            commands = [["bash", "-c", SHORT + block.code] for block in runnable if block.language == "bash"]
            if scripts:
                commands.append([sys.executable, "-c", "\n".join(scripts)])
            for command in commands:
                code = command[-1].removeprefix(SHORT).strip()[:300]
                print(f"== {time.monotonic() - start:.0f} s, {page.relative_to(ROOT)}: {code}", flush=True)
                subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
