"""Command lines of `train.py`, `eval.py` and the modules: flags, one-line errors, exit statuses."""

import ast
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from bertjax.errors import UserError, reason
from bertjax.signals import EXIT_STATUS, Interrupted

_HOW_TO_SAVE_MEMORY = (
    "try --config.micro_batches=4, then --config.remat=True, then a smaller --config.max_length "
    "(docs/devices.md), in another --workdir"
)
_HELP_FLAGS = {f"{dashes}{name}" for dashes in ("-", "--") for name in ("help", "helpshort", "helpfull", "?")}


def run(main: Callable[[], object]) -> None:
    """Parses the flags, calls `main` and exits.

    Exit status: 0 done; 2 a `UserError`, a bad flag or a device out of memory; 75 stopped by a signal with the state
    saved; 130 interrupted before the state was saved; 141 the reader of stdout is gone.
    """

    def run_main(_: Sequence[str]) -> None:
        # Orbax logs every file it writes and a traceback for each failure, Grain its missing profiler. A user needs
        # none of it: failures are raised too.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)
        main()  # not returned: it would become the exit status

    try:
        app.run(run_main, flags_parser=_parse)
    except UserError as error:
        sys.exit(_report(error))
    except SystemExit as stopped:
        is_help = stopped.code == 1 and _HELP_FLAGS & set(sys.argv[1:])  # absl exits with 1 after --help
        sys.exit(0 if is_help else stopped.code)
    except Interrupted as stopped:
        print(f"{stopped}; run the same command to resume", file=sys.stderr)
        sys.exit(EXIT_STATUS)
    except KeyboardInterrupt:
        is_run = "config" in flags.FLAGS and "workdir" in flags.FLAGS
        how_to_resume = "; run the same command to resume from the last checkpoint" if is_run else ""
        print(f"interrupted{how_to_resume}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader, `head` for example, has closed the pipe: flushing the rest at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # XLA's error is a RuntimeError
            raise
        remedy = _HOW_TO_SAVE_MEMORY if "config" in flags.FLAGS else "use a larger device, or JAX_PLATFORMS=cpu"
        sys.exit(_report(f"a device is out of memory ({reason(error)}); {remedy}"))


def read_recipe(holder: flags.FlagHolder) -> ml_collections.ConfigDict:
    """The config of a `--config` flag; UserError if the recipe cannot be read."""
    try:
        holder.value.to_dict()
    except OSError as error:  # ml_collections raises it only when the config is used
        raise UserError(f"--config: the recipe cannot be read: {_last_line(error)}") from None
    return holder.value


def default_workdir() -> str:
    """The workdir if none is given: runs/RECIPE, or runs/RECIPE-VARIANT."""
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"runs/{'-'.join(filter(None, (Path(path).stem, variant)))}"


def list_recipes(folder: Path) -> str:
    """Text for `--help`: the path and the summary of each recipe in a folder, one per line."""
    lines = []
    for path in sorted(folder.glob("*.py")):
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append(f"  {folder.name}/{path.name}: {summary}")
    return "\n".join(["recipes; each file's docstring has variants, cost and scores:", *lines])


def _report(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        if "Traceback" in str(error):  # the recipe's code raised
            raise UserError(f"--config: the recipe failed: {_last_line(error)}") from None
        raise UserError(_one_line(error)) from None
    except (AttributeError, KeyError) as error:
        # How ml_collections reports a key that is not in the recipe.
        raise UserError(_unknown_key(argv, str(error))) from None
    except OSError as error:
        raise UserError(f"--config: the recipe cannot be read: {_last_line(error)}") from None
    except Exception as error:  # a recipe is code and may raise anything
        raise UserError(f"--config: the recipe failed: {type(error).__name__}: {_one_line(error)}") from error
    if rest[1:]:
        raise UserError(f"expected flags only, found {rest[1]!r}; values go with '=', as in --config=FILE")
    return rest


def _unknown_key(argv: Sequence[str], message: str) -> str:
    """ml_collections' message about a missing key, with the flag that named it."""
    similar = re.search(r'Did you mean "(\w+)"', message)
    names = {*re.findall(r"[A-Za-z_]\w*", message)} - {similar[1] if similar else ""}
    suggestion = f"; did you mean {similar[1]!r}?" if similar else ""
    for argument in argv[1:]:
        keys = argument.lstrip("-").partition("=")[0].split(".")
        for depth, key in enumerate(keys[1:], 2):
            if key in names:
                return f"--{'.'.join(keys[:depth])}: no such key{suggestion}"
    return f"--config: {_one_line(message)}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
