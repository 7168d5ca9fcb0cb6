"""configs/glue.py: every variant's settings, and a shrunken run on GLUE's records from a random RoBERTa."""

import jax
import numpy as np
import pytest
import tiny_families
import zoo
from helpers import recipe

from bertjax import smart
from bertjax.config import read_config
from bertjax.data import glue
from bertjax.evaluation import evaluate
from bertjax.tasks import TASKS
from bertjax.training import finetuning

OPTIONS = ("", "-plain", "-large", "-large-plain")
ROWS = {"train": 24, "validation": 12, "validation_matched": 12, "test": 3, "test_matched": 3}


@pytest.mark.parametrize("task", glue.GLUE)
@pytest.mark.parametrize("options", OPTIONS)
def test_every_variant_is_in_the_papers_grid(task, options):
    config = read_config(recipe("glue", task + options))
    assert config.task == task
    assert config.init_from == f"FacebookAI/roberta-{'large' if 'large' in options else 'base'}"
    assert config.learning_rate in (1e-5, 2e-5, 3e-5, 5e-5)
    assert config.batch_size in (16, 32, 64)
    assert config.epochs <= 6
    assert (config.max_length, config.warmup, config.max_steps, config.tune) == (512, 0.1, None, "all")
    settings = config.smart.settings()
    if "plain" in options:
        assert settings == smart.SmartSettings()
    else:
        assert settings.weight in (1.0, 3.0, 5.0)
        assert (settings.bregman_weight, settings.decay, settings.horizon) == (1.0, (0.99, 0.999), None)
        assert settings.adversary == smart.ProjectedGradientAscent(
            step_size=1e-3, noise=1e-5, radius=1e-5, norm="linf", num_steps=1
        )


@pytest.mark.parametrize(
    "variant", ["", "rte-", "-plain", "rtee", "rte,large", "rte-large-large", "rte-plain-large", "rte-huge", "sst5"]
)
def test_an_unknown_variant_is_one_line_with_the_known(variant):
    with pytest.raises(ValueError) as raised:
        recipe("glue", variant)
    assert str(raised.value) == (
        "configs/glue.py: expected TASK, TASK-plain, TASK-large or TASK-large-plain, TASK one of cola, sst2, mrpc, "
        f"qqp, stsb, mnli, qnli, rte; found {variant!r}"
    )


class Records(list):
    """A TFDS data source."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


class Builder:
    """TFDS's builder of a GLUE task, with generated records."""

    def __init__(self, schema):
        self.schema = schema

    def download_and_prepare(self, download_config):
        pass

    def as_data_source(self, split):
        return Records(self.record(i, split.startswith("test")) for i in range(ROWS[split]))

    def record(self, i, is_hidden):
        texts = {column: f"the film {i} was {column} {'a' * (i % 5)}".encode() for column in self.schema.texts}
        label = np.float32(i % 6) if self.schema.is_score else np.int64(i % len(self.schema.label_names))
        hidden = np.float32(-1) if self.schema.is_score else np.int64(-1)
        return {"idx": np.int32(i), self.schema.label: hidden if is_hidden else label, **texts}


@pytest.fixture(scope="module")
def tiny_roberta(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("roberta")
    zoo.family_tokenizer(folder, "roberta", is_stated=True)
    architecture = tiny_families.drawn("roberta", 0)  # pads with 1, as its tokenizer
    architecture.vocab_size, architecture.max_position_embeddings = zoo.size_of(folder), 40
    model = tiny_families.head_class("roberta", "Model")(architecture)
    tiny_families.randomized(model, 1).save_pretrained(folder)
    return folder


ALL = [(task, options) for task in glue.GLUE for options in OPTIONS]
FAST = [("rte", ""), ("stsb", "-large-plain")]


@pytest.mark.parametrize(
    ("task", "options"), [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in FAST)]
)
def test_a_shrunken_variant_trains_and_evaluates(task, options, tiny_roberta, tmp_path, monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(glue, "Glue", lambda **options: Builder(TASKS[options["config"]].schema))
    config = recipe("glue", task + options)
    config.init_from = str(tiny_roberta)
    config.batch_size, config.max_length, config.max_steps = 8, 32, 2
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    assert result["steps"] == 2
    assert all(np.isfinite(value) for value in result["dev"][task]["final"].values())
    assert (result["cost"]["flops_ratio"] > 2) == ("plain" not in options)
    again, metric = evaluate(tmp_path / "run", "dev", radius=0)["metrics"][task], TASKS[task].main_metric
    assert again[metric] == pytest.approx(result["dev"][task]["final"][metric])
