"""`python -m bertjax.pretrained export SRC OUT [--checkpoint=final|best]`, and `convert SRC OUT`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from bertjax.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 when done, 2 for what a user can put right."""
    parser = _Parser(prog="python -m bertjax.pretrained", description="Checkpoints in and out.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="export|convert")
    export_parser = commands.add_parser("export", help="write a folder that Transformers' from_pretrained loads")
    export_parser.add_argument(
        "--checkpoint", default="final", choices=["final", "best"], help="of a run (default: final)"
    )
    convert_parser = commands.add_parser("convert", help="write a folder of our own that --config.init_from takes")
    for command in (export_parser, convert_parser):
        command.add_argument("source", metavar="SRC", help="a run's folder, a checkpoint's, minilm-l6 or a hub name")
        command.add_argument("out", metavar="OUT", help="the folder to write, which must not be there")
    options = parser.parse_args(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's, and nothing for a user to act on
    try:
        if options.command == "export":
            from bertjax.pretrained.export import export

            folders = export(options.source, options.out, options.checkpoint)
        else:
            from bertjax.pretrained.convert import convert

            folders = [convert(options.source, options.out)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for folder in folders:
        print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
