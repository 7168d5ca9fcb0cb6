"""What `train.py` and `eval.py` share: flags in, one line on stderr for what a user can put right."""

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

_SMALLER = (
    "try --config.micro_batches=4, then --config.remat=True, then a smaller --config.max_length "
    "(docs/devices.md), in another --workdir"
)


_HELP = {f"{dashes}{name}" for dashes in ("-", "--") for name in ("help", "helpshort", "helpfull", "?")}


def run(main: Callable[[], object]) -> None:
    """Parses the flags, calls `main`, and exits.

    With 0 when done, 2 for a `UserError`, a bad flag or a device's want of memory, 75 if asked to stop and the state is
    saved, 130 if interrupted before it was, 141 if nobody reads stdout any more.
    """

    def run_main(_: Sequence[str]) -> None:
        # Orbax logs every file that it writes, with a traceback where it cannot, and Grain what profiling it lacks:
        # nothing for a user to act on, as what fails is also raised.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)
        main()  # what it returns would become the exit status

    try:
        app.run(run_main, flags_parser=_parse)
    except UserError as error:
        sys.exit(_report(error))
    except SystemExit as stopped:
        sys.exit(
            0 if stopped.code == 1 and _HELP & set(sys.argv[1:]) else stopped.code
        )  # absl's own status for it is 1
    except Interrupted as stopped:
        print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_STATUS)
    except KeyboardInterrupt:
        is_run = "config" in flags.FLAGS and "workdir" in flags.FLAGS
        goes_on = "; the same command goes on from the last checkpoint" if is_run else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever reads, as `head`, has enough; what is left must not be flushed to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # XLA's own, of class RuntimeError
            raise
        remedy = _SMALLER if "config" in flags.FLAGS else "use one with more, or JAX_PLATFORMS=cpu"
        sys.exit(_report(f"a device's memory does not suffice ({reason(error)}); {remedy}"))


def recipe(holder: flags.FlagHolder) -> ml_collections.ConfigDict:
    """The config of a `--config` flag; UserError where its file could not be read."""
    try:
        holder.value.to_dict()
    except OSError as error:  # kept by ml_collections until something is asked of the config
        raise UserError(f"--config: the recipe cannot be read: {_last_line(error)}") from None
    return holder.value


def default_workdir() -> str:
    """Where a recipe's results go unless told: runs/RECIPE, or runs/RECIPE-VARIANT."""
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"runs/{'-'.join(filter(None, (Path(path).stem, variant)))}"


def recipes(folder: Path) -> str:
    """For `--help`: a line for each recipe of a folder, its path and the first of its docstring."""
    lines = []
    for path in sorted(folder.glob("*.py")):
        about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append(f"  {folder.name}/{path.name}: {about}")
    return "\n".join(["recipes; each file's docstring tells variants, cost and scores:", *lines])


def _report(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        if "Traceback" in str(error):  # of the recipe's own code
            raise UserError(f"--config: the recipe failed: {_last_line(error)}") from None
        raise UserError(_one_line(error)) from None
    except (AttributeError, KeyError) as error:
        # ml_collections' own for a key that the recipe lacks.
        raise UserError(_unknown_key(argv, str(error))) from None
    except OSError as error:
        raise UserError(f"--config: the recipe cannot be read: {_last_line(error)}") from None
    except Exception as error:  # whatever a recipe's own code may raise
        raise UserError(f"--config: the recipe failed: {type(error).__name__}: {_one_line(error)}") from error
    if rest[1:]:
        raise UserError(f"expected flags only, found {rest[1]!r}; values go with '=', as in --config=FILE")
    return rest


def _unknown_key(argv: Sequence[str], message: str) -> str:
    near = re.search(r'Did you mean "(\w+)"', message)
    names = {*re.findall(r"[A-Za-z_]\w*", message)} - {near[1] if near else ""}
    for argument in argv[1:]:
        keys = argument.lstrip("-").partition("=")[0].split(".")
        for place, key in enumerate(keys[1:], 2):
            if key in names:
                return f"--{'.'.join(keys[:place])}: no such key" + (f"; did you mean {near[1]!r}?" if near else "")
    return f"--config: {_one_line(message)}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
