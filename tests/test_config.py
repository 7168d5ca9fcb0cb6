import importlib.util
import json
from pathlib import Path

import pytest

from bertjax import smart
from bertjax.config import PretrainConfig, RunConfig, default_config, is_pretraining, read_config
from bertjax.config.smart import SmartConfig
from bertjax.errors import UserError
from bertjax.study.plan import plan_trials

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def load_recipe(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def test_defaults_are_those_of_the_dataclass():
    assert read_config(default_config()) == RunConfig()
    assert read_config(default_config(PretrainConfig), PretrainConfig) == PretrainConfig()
    assert not is_pretraining(default_config())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    config = load_recipe(path)()
    if "blocks" in config:  # of many runs
        assert len(plan_trials(config.to_dict())) > 100
        return
    if path.stem == "own":  # what its file holds, the user says
        with pytest.raises(UserError, match=r'--config.columns.classes="\(.*, or --config.columns.range="\(0.,5.\)"'):
            read_config(config)
        config.columns.range = (0.0, 5.0)
    read_config(config, PretrainConfig if is_pretraining(config) else RunConfig)


def test_the_paper_variant_is_the_papers():
    config = read_config(load_recipe(CONFIGS[0].with_name("sst_smart.py"))("paper"))
    assert (config.task, config.init_from) == ("sst5", "bert-base-uncased")
    assert config.epochs <= 6
    assert config.batch_size in (16, 32, 64)
    assert config.learning_rate in (1e-5, 2e-5, 3e-5, 5e-5)
    assert config.warmup == 0.1
    settings = config.smart.settings()
    ascent = smart.ProjectedGradientAscent(radius=1e-5, noise=1e-5, step_size=1e-3)
    assert (settings.adversary, settings.bregman_weight) == (ascent, 1.0)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="expected variant starter, base or paper, found 'papr'"):
        load_recipe(CONFIGS[0].with_name("sst_smart.py"))("papr")


def test_one_number_to_a_tuple_of_decays_is_one_decay():
    assert SmartConfig(preset="bertjax", decay=(0.9,)).settings().decay == 0.9
    assert SmartConfig(preset="bertjax", decay=(0.9, 0.99)).settings().decay == (0.9, 0.99)


def test_a_config_survives_json():
    config = RunConfig(smart=SmartConfig(preset="bertjax", decay=(0.9, 0.99)), max_steps=3)
    assert read_config(json.loads(json.dumps(config.to_dict()))) == config


def test_the_digest_tells_configs_apart():
    assert RunConfig().digest() == RunConfig().digest()
    assert RunConfig().digest() != RunConfig(seed=1).digest()
    assert RunConfig().digest() != RunConfig(smart=SmartConfig(preset="bertjax")).digest()


def test_settings_change_the_preset_and_nothing_else():
    settings = SmartConfig(preset="bertjax", radius=0.5).settings()
    assert (settings.adversary.radius, settings.weight, settings.bregman_weight) == (0.5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epocs": 1}, "--config.epocs: no such key; did you mean 'epochs'?"),
        ({"smart": {"wieght": 1}}, "--config.smart.wieght: no such key; did you mean 'weight'?"),
        ({"epochs": 1.5}, "--config.epochs: expected int, found 1.5"),
        ({"epochs": True}, "--config.epochs: expected int, found True"),
        ({"epochs": 0}, "--config.epochs: expected at least 1, found 0"),
        ({"smart": 3}, "--config.smart: expected keys and values, found 3"),
        ({"learning_rate": float("nan")}, "--config.learning_rate: expected a finite number of at least 0, found nan"),
        ({"warmup": 1.5}, "--config.warmup: expected a share of the updates in [0, 1], found 1.5"),
        ({"seed": -1}, "--config.seed: expected an integer in [0, 2**32), found -1"),
        ({"max_length": 2}, "--config.max_length: expected at least 3 tokens, found 2"),
        ({"dtype": "float16"}, "--config.dtype: expected float32 or bfloat16, found 'float16'"),
        ({"on_bad_row": "ignore"}, "--config.on_bad_row: expected error or skip, found 'ignore'"),
        ({"smart": {"radius": -0.1}}, "--config.smart.radius must be a finite number of at least 0, found -0.1"),
        ({"train_share": 0.0}, "--config.train_share: expected a share of the training examples in (0, 1], found 0.0"),
        ({"train_share": 1.5}, "--config.train_share: expected a share of the training examples in (0, 1], found 1.5"),
        (
            {"smart": {"preset": "ours"}},
            "--config.smart.preset must be one of none, bertjax, bertjax_exact, paper, mtdnn_2020, mtdnn_head, sift, "
            "vat, r3f, rdrop, found 'ours'",
        ),
        ({"smart": {"norm": "l1"}}, "--config.smart.norm must be one of l2, linf, found 'l1'"),
        ({"smart": {"every": 0}}, "--config.smart.every must be at least 1, found 0"),
        (
            {"smart": {"preset": "rdrop", "radius": -1.0}},
            "--config.smart.radius must be a finite number of at least 0, found -1.0",
        ),
        (
            {"smart": {"preset": "paper", "start": "foo"}},
            "--config.smart.start must be one of noise, output, task_gradient, found 'foo'",
        ),
        ({"smart": {"preset": "r3f", "norm": "l1"}}, "--config.smart.norm must be one of l2, linf, found 'l1'"),
        (
            {"smart": {"preset": "bertjax", "start": "noise"}},
            "--config.smart.num_steps must be at least 1 when the start is noise, found 0",
        ),
        (
            {"task": "sst5", "tasks": ["sts", "quora"]},
            "--config.task: no effect beside --config.tasks, which this recipe sets; leave it out, or use a recipe for "
            "one task",
        ),
        (
            {"task": "sst5", "data_file": "a.tsv"},
            "--config.task: no effect beside --config.data_file, which this recipe sets; leave it out, or use a recipe "
            "for one task",
        ),
        ({"tune": "heads"}, "--config.tune: expected all or head, found 'heads'"),
        (
            {"tune": "head", "smart": {"preset": "bertjax"}},
            "--config.tune: head freezes the encoder, which SMART's perturbation must pass through; "
            "expected --config.smart.preset=none with it",
        ),
        (
            {"sampling": "random"},
            "--config.sampling: expected round_robin, proportional, square_root or annealed, found 'random'",
        ),
        ({"tasks": ["sts", "sts"]}, "--config.tasks: expected names of tasks, each once, found ('sts', 'sts')"),
        ({"tasks": "sts"}, "--config.tasks: expected several values, such as \"('a','b')\", found 'sts'"),
        ({"tasks": [1]}, "--config.tasks: expected str, found 1"),
        (
            {"pcgrad": True, "tasks": ["sts"]},
            "--config.pcgrad: expected at least two --config.tasks, whose gradients may conflict",
        ),
        (
            {"tasks": ["sts", "quora"], "task_weights": [1.0]},
            "--config.task_weights: expected a weight for each of --config.tasks, found (1.0,)",
        ),
        (
            {"tasks": ["sts", "quora"], "task_weights": [1.0, 0.0]},
            "--config.task_weights: expected finite numbers above 0, found (1.0, 0.0)",
        ),
        (
            {"data_file": "a.tsv"},
            "--config.data_file: expected either --config.columns.classes=\"('bad','good')\", the names of its "
            "classes, "
            'or --config.columns.range="(0.,5.)", the bounds of a score',
        ),
        ({"data_file": "a.tsv", "tasks": ["sts"]}, "--config.data_file: expected no --config.tasks beside it"),
        ({"dev_file": "a.tsv"}, "--config.dev_file: expected --config.data_file beside it"),
        (
            {"columns": {"classes": ["a", "a"]}},
            "--config.columns.classes: expected at least two different names, found ('a', 'a')",
        ),
        (
            {"columns": {"range": [5, 0]}},
            "--config.columns.range: expected a score's minimum and maximum, found (5.0, 0.0)",
        ),
        ({"smart": {"decay": [0.9, "x"]}}, "--config.smart.decay: expected float, found 'x'"),
    ],
)
def test_bad_values_are_refused_in_one_line(values, message):
    with pytest.raises(UserError) as raised:
        read_config(values)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("smart", "lines"),
    [
        (
            {"preset": "r3f", "norm": "linf"},
            ["norm has no effect: R_s's adversary, RandomPerturbation, does not read it"],
        ),
        (
            {"preset": "r3f", "num_steps": 5},
            ["num_steps has no effect: R_s's adversary, RandomPerturbation, does not read it"],
        ),
        (
            {"preset": "paper", "start": "output"},
            ["start has no effect: R_s's adversary, ProjectedGradientAscent, does not read it"],
        ),
        (
            {"preset": "sift", "radius": 0.5},
            ["radius has no effect: R_s's adversary, ProjectedGradientAscent without projection, does not read it"],
        ),
        ({"preset": "rdrop", "radius": 0.5}, ["radius has no effect: R_s has no adversary"]),
        (
            {"preset": "rdrop", "matched_dropout": True},
            ["matched_dropout has no effect: R_s is then 0, as its two passes are equal"],
        ),
        ({"preset": "bertjax", "weight": 0.0, "every": 2}, ["every has no effect: R_s has weight 0"]),
        ({"preset": "bertjax", "share": 0.5}, []),
        ({"preset": "bertjax", "weight": 0.0, "share": 0.5}, []),
        ({"preset": "vat", "horizon": 0.1}, ["horizon has no effect: the Bregman term's weight is 0"]),
        (
            {"preset": "bertjax", "horizon": 0.1, "decay": [0.9, 0.99]},
            ["decay has no effect: --config.smart.horizon replaces it"],
        ),
        (
            {"preset": "none", "radius": 0.1, "horizon": 0.1},
            [f"{name} has no effect: the preset none is plain fine-tuning" for name in ("radius", "horizon")],
        ),
        ({"preset": "r3f", "radius": 0.1, "every": 2, "matched_dropout": True}, []),
        ({"preset": "paper", "radius": 0.1, "norm": "l2", "num_steps": 2, "decay": [0.9, 0.99]}, []),
        ({"preset": "mtdnn_2020", "norm": "l2"}, []),
        ({"preset": "bertjax", "weight": 0.0, "horizon": 0.1, "matched_dropout": False}, []),
        ({"preset": "bertjax", "bregman_weight": 0.0, "start": "output", "clean_gradient": True}, []),
        (
            {"preset": "none", "weight": 1.0, "bregman_weight": 0.5},
            [f"{name} has no effect: the preset none is plain fine-tuning" for name in ("weight", "bregman_weight")],
        ),
    ],
)
def test_keys_of_smart_that_nothing_reads_are_told(smart, lines):
    assert read_config({"smart": smart}).smart.idle() == [f"--config.smart.{line}" for line in lines]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpos": "x"}, "--config.corpos: no such key; did you mean 'corpus'?"),
        ({"whole_word": 1}, "--config.whole_word: expected bool, found 1"),
        ({"head_epochs": 0}, "--config.head_epochs: expected at least 1, found 0"),
        (
            {"head_learning_rate": -1.0},
            "--config.head_learning_rate: expected a finite number of at least 0, found -1.0",
        ),
        ({"max_length": 7}, "--config.max_length: expected at least 8 tokens, found 7"),
        ({"dtype": "float16"}, "--config.dtype: expected float32 or bfloat16, found 'float16'"),
        ({"seed": 2**32}, "--config.seed: expected an integer in [0, 2**32), found 4294967296"),
    ],
)
def test_bad_values_of_pre_training_are_refused_in_one_line(values, message):
    with pytest.raises(UserError) as raised:
        read_config(values, PretrainConfig)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"learning_rate": 10**400}, "--config.learning_rate: expected a number, found one too large"),
        ({"columns": {"range": [0, 10**400]}}, "--config.columns.range: expected a number, found one too large"),
        ({"batch_size": 2**31}, "--config.batch_size: expected less than 2**31, found 2147483648"),
        ({"max_steps": 10**400}, f"--config.max_steps: expected less than 2**31, found 1{'0' * 37}...{'0' * 39}"),
        ({"seed": 2**32}, "--config.seed: expected an integer in [0, 2**32), found 4294967296"),
        ({"task": [[[[[[[[[1]]]]]]]]]}, "--config.task: expected str, found [[[[[[[...]]]]]]]"),
        ({"x" * 10**6: 1}, f"--config.{'x' * 3991}…"),
    ],
)
def test_numbers_and_values_beyond_all_bounds(values, complaint):
    with pytest.raises(UserError) as info:
        read_config(values)
    assert str(info.value) == complaint


def test_the_preset_none_is_plain_fine_tuning_whatever_weight_a_recipe_sets():
    settings = read_config({"smart": {"preset": "none", "weight": 0.5, "bregman_weight": 1.0}}).smart.settings()
    assert not settings.has_smoothness
    assert not settings.has_bregman
