"""`python -m bertjax.pretrained export SRC OUT [--checkpoint=final|best]`, `convert SRC OUT` and `check SRC`."""

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
    """Runs a command; returns 0 for success, 1 if a check finds a difference, 2 for a user error."""
    parser = _Parser(
        prog="python -m bertjax.pretrained", description="Convert and check checkpoints.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="export|convert|check")
    export_parser = commands.add_parser("export", help="write a folder that Transformers' from_pretrained loads")
    export_parser.add_argument(
        "--checkpoint", default="final", choices=["final", "best"], help="which checkpoint of a run (default: final)"
    )
    convert_parser = commands.add_parser("convert", help="write a folder with Orbax parameters for --config.init_from")
    check_parser = commands.add_parser("check", help="compare what is read with what Transformers reads")
    for command in (export_parser, convert_parser, check_parser):
        command.add_argument(
            "source", metavar="SRC", help="the folder of a run or a checkpoint, minilm-l6, mpnet-base, or a hub name"
        )
    for command in (export_parser, convert_parser):
        command.add_argument("out", metavar="OUT", help="the folder to write; it must not exist")
    options = parser.parse_args(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)  # hides Orbax's log, which is of no use here
    try:
        if options.command == "check":
            return _check(options.source)
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


def _check(source: str) -> int:
    from bertjax.pretrained.check import check_checkpoint

    marks = {True: "equal", False: "DIFFERENT", None: "not compared"}
    status = 0
    for comparison in check_checkpoint(source):
        print(f"{marks[comparison.is_equal]:<13} {comparison.name}: {comparison.detail}", flush=True)
        status = max(status, comparison.is_equal is False)
    return status


if __name__ == "__main__":
    sys.exit(main())
