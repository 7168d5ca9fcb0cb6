"""Fine-tunes a BERT, or pre-trains it further, by a recipe.

python train.py --config=configs/sst_smart.py [--config.KEY=VALUE ...]
"""

import re
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from bertjax import cli
from bertjax.errors import UserError, reason

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: FILE or FILE:VARIANT; --config.KEY=VALUE overrides.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/RECIPE or runs/RECIPE-VARIANT.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several hosts that JAX detects: TPU pod, SLURM.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first host, if JAX cannot detect the hosts.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of hosts, with --coordinator.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this host, from 0, with --coordinator.")
flags.mark_flag_as_required("config")
__doc__ += f"\n{cli.list_recipes(Path(__file__).with_name('configs'))}\n"


def main() -> None:
    """Trains by the recipe."""
    # Imported only once the flags are parsed: it takes seconds.
    import jax

    from bertjax.compilation import enable_compilation_cache
    from bertjax.config import is_pretraining
    from bertjax.training.finetuning import train_and_evaluate
    from bertjax.training.pretraining import pretrain

    config = cli.read_recipe(CONFIG)
    enable_compilation_cache()
    if DISTRIBUTED.value or COORDINATOR.value:
        _check_hosts()
        try:
            jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        except ValueError as error:
            raise UserError(
                "--distributed: expected a cluster that JAX detects, or all of --coordinator, --num_processes and "
                f"--process_id, found neither ({reason(error)})"
            ) from error
    elif (NUM_PROCESSES.value, PROCESS_ID.value) != (None, None):
        raise UserError("--num_processes, --process_id: expected --coordinator=HOST:PORT with them, found none")
    train = pretrain if is_pretraining(config) else train_and_evaluate
    train(config, WORKDIR.value or cli.default_workdir())


def _check_hosts() -> None:
    address, hosts, host = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise UserError(f"--coordinator: expected HOST:PORT, found {address!r}")
    if hosts is not None and host is not None and not 0 <= host < hosts:
        raise UserError(f"--process_id: expected 0 to {hosts - 1} for --num_processes={hosts}, found {host}")


if __name__ == "__main__":
    cli.run(main)
