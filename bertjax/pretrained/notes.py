"""Lines on stderr about what is read of a checkpoint, and what is not."""

import sys

from bertjax.errors import printable


def note(line: str) -> None:
    """Prints a line in which text from a stranger's file is safe."""
    print(printable(line), file=sys.stderr)
