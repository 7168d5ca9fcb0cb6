"""A run of further pre-training (Gururangan et al., ACL 2020): from a config to a result.

A family with a next-sentence head continues as BERT was trained (Devlin et al., NAACL 2019), on pairs; any other as
RoBERTa (Liu et al., 2019), on full sentences by masked-language modelling alone.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertjax.config import PretrainConfig, read_config
from bertjax.data.batching import resumable_iterator
from bertjax.data.corpus import Corpus, load_corpus
from bertjax.data.full_sentences import FullSentences
from bertjax.data.masking import Vocabulary, read_vocabulary
from bertjax.data.mixture import Mixture
from bertjax.data.mlm import MlmBatches, eval_mlm_batches
from bertjax.data.pretraining_examples import ExamplePlanner, tokenize_documents
from bertjax.data.sentence_pairs import SentencePairs
from bertjax.errors import UserError
from bertjax.files.atomic import write_json
from bertjax.files.paths import user_path
from bertjax.models.families import build_encoder, family_of
from bertjax.models.forward import Params
from bertjax.parallel import CompiledByShape, DataParallel, is_first_host
from bertjax.pretrained import copy_encoder_files, load_pretrained, read_lineage, read_model_config, resolve_checkpoint
from bertjax.pretrained.tokenizer import check_tokenizer_fits, read_tokenizer
from bertjax.runs.workdir import open_workdir
from bertjax.training.init_checkpoint import describe_init_checkpoint, keep_init_checkpoint
from bertjax.training.optimizer import adamw, linear_schedule
from bertjax.training.pretraining_step import (
    init_pretraining_state,
    pretrain_eval_step,
    pretrain_step,
    pretraining_metrics,
    with_pretraining_heads,
)
from bertjax.training.result import run_metadata, run_once, skip_warnings
from bertjax.training.throughput import Meter
from bertjax.training.train_loop import Outcome, Plan, Scores, num_updates, train_loop

MAIN_METRIC = "mlm_accuracy"
LABELS = "the text's own: the words that were masked"


def pretrain(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Pre-trains further on a corpus as a config says, or resumes where an earlier call stopped.

    If the checkpoint lacks a pre-training head, a first stage trains the heads on the frozen encoder, in the subfolder
    `heads`. Its metrics on held-out documents are the result's "before". Without a next-sentence head in the family,
    no metric mentions next-sentence prediction.

    Args:
      config: A recipe's ConfigDict, or a `PretrainConfig`.
      workdir: The run's folder, new or begun with the same config.

    Returns:
      The contents of `result.json`. A finished run is not repeated.

    Raises:
      UserError: Something in the config, the corpus or the checkpoint that the user can fix.
    """
    config = config if isinstance(config, PretrainConfig) else read_config(config, PretrainConfig)
    return run_once(config, user_path(workdir), _run)


class _Stage(NamedTuple):
    """The result of a stage.

    Attributes:
      params: The last parameters, on one device.
      outcome: From `train_loop`.
      num_steps: Number of updates.
      cost: The entry of that name in result.json.
    """

    params: Params
    outcome: Outcome
    num_steps: int
    cost: dict[str, float]


class _Run:
    """What both stages share: the tokenised corpus, the model, the devices, and the evaluation on dev."""

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.parallel = DataParallel(jax.devices())
        self.parallel.check_batch_size(config.batch_size, config.micro_batches)
        # Before the checkpoint, which may need a download, so that mistakes are reported early.
        self.corpus: Corpus = load_corpus(config.corpus)
        self.folder = resolve_checkpoint(config.init_from)
        architecture = read_model_config(self.folder)
        if config.max_length > architecture.max_length:
            raise UserError(
                f"--config.max_length: expected at most the model's {architecture.max_length} positions, "
                f"found {config.max_length}"
            )
        heads = family_of(architecture).pretraining_heads
        self.has_pairs = "nsp" in heads
        read = read_tokenizer(self.folder)
        check_tokenizer_fits(read.tokenizer, architecture, self.folder)
        self.vocabulary: Vocabulary = read_vocabulary(
            read, self.folder, whole_word=config.whole_word, has_pairs=self.has_pairs
        )
        make_planner = SentencePairs if self.has_pairs else FullSentences
        self.planners: dict[str, ExamplePlanner] = {
            split: make_planner(tokenize_documents(documents, read.tokenizer), self.vocabulary, config.max_length)
            for split, documents in self.corpus.splits.items()
        }
        self.model = build_encoder(architecture, heads, has_mlm=True, dtype=jnp.dtype(config.dtype), remat=config.remat)
        self._dev = eval_mlm_batches(
            self.planners["dev"],
            self.vocabulary,
            batch_size=config.batch_size,
            whole_word=config.whole_word,
        )
        self._eval_step = CompiledByShape(self.parallel.map_eval(partial(pretrain_eval_step, model=self.model)))

    def train_batches(self, epochs: int) -> MlmBatches:
        return MlmBatches(
            self.planners["train"],
            self.vocabulary,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epochs=epochs,
            whole_word=self.config.whole_word,
        )

    def evaluate(self, params: Params) -> Scores:
        """Metrics on dev of replicated parameters."""
        sums = (self._eval_step(params, self.parallel.shard(batch)) for batch in self._dev)
        host = ({name: self.parallel.gather(x) for name, x in batch.items()} for batch in sums)
        return {self.corpus.name: pretraining_metrics(host)}

    def stage(self, workdir: Path, params: Params, key: jax.Array, *, tune: str, meter: Meter) -> _Stage:
        """Trains the heads or everything."""
        config, name, is_first = self.config, self.corpus.name, tune == "head"
        title = f"{name}, heads" if is_first else name
        epochs = config.head_epochs if is_first else config.epochs
        batches = self.train_batches(epochs)
        num_steps = num_updates(title, len(batches), config.max_steps)
        epoch_steps = len(batches) / epochs
        plan = Plan(
            name=title,
            num_steps=num_steps,
            epoch_steps=epoch_steps,
            eval_every=num_steps if is_first else config.eval_every or max(1, round(epoch_steps)),
            checkpoint_every=config.checkpoint_every,
            main_metrics={name: MAIN_METRIC},
            fingerprints={name: self.corpus.fingerprint},
            max_skipped=config.max_skipped,
            ids={},
        )
        peak = config.head_learning_rate if is_first else config.learning_rate
        tx = adamw(linear_schedule(peak, num_steps, config.warmup), config.weight_decay)
        step_with = partial(pretrain_step, model=self.model, tx=tx, tune=tune, micro_batches=config.micro_batches)
        run_step = CompiledByShape(self.parallel.map_train(partial(_on_one, step=step_with)))
        workdir.mkdir(parents=True, exist_ok=True)
        outcome = train_loop(
            workdir,
            plan,
            [init_pretraining_state(params, tx, model=self.model, tune=tune)],
            run_step,
            Mixture({name: resumable_iterator(batches)}, [name] * num_steps),
            key,
            self.evaluate,
            parallel=self.parallel,
            meter=meter,
        )
        cost = {
            "real_token_fraction": batches.real_token_fraction(),
            "compiled_shapes": len(outcome.peaks),
            "flops_ratio": 1.0,
        }
        return _Stage(self.parallel.unreplicate(outcome.state.params), outcome, num_steps, cost)


def _run(config: PretrainConfig, workdir: Path) -> dict[str, Any]:
    meter, heads_meter = Meter(), Meter()
    run = _Run(config)
    corpus, parallel = run.corpus, run.parallel
    head_key, step_key = jax.random.split(jax.random.key(config.seed))
    past = read_lineage(config.init_from)
    _, loaded = load_pretrained(config.init_from, strict_heads=True)
    origin = describe_init_checkpoint(past, run.folder, loaded)
    params, is_new = with_pretraining_heads(loaded, run.model, head_key)
    del loaded

    with open_workdir(workdir, config):
        if is_first_host():
            keep_init_checkpoint(workdir, origin)
            copy_encoder_files(run.folder, workdir / "encoder")
        heads = workdir / "heads"
        if is_new:
            first = run.stage(heads, params, step_key, tune="head", meter=heads_meter)
            params, before = first.params, first.outcome.scores[corpus.name]["final"]
            del first  # frees its optimizer's state
        else:
            before = run.evaluate(parallel.replicate(params))[corpus.name]
        stage = run.stage(workdir, params, step_key, tune="all", meter=meter)
        result = {
            "datasets": {
                corpus.name: {
                    "name": corpus.name,
                    "fingerprint": corpus.fingerprint,
                    "labels": f"{LABELS}, and whether the second text followed the first" if run.has_pairs else LABELS,
                    "documents": {split: len(documents) for split, documents in corpus.splits.items()},
                }
            },
            "lineage": [*past, {"pretrained_on": corpus.name, "fingerprint": corpus.fingerprint}],
            "warnings": skip_warnings(stage.outcome),
            "dev": {corpus.name: {"before": before, **stage.outcome.scores[corpus.name]}},
            "cost": stage.cost,
            **run_metadata(config, stage.num_steps, meter, parallel),
        }
        if is_new:  # the run's first step was in the first stage
            result["timing"]["seconds_to_first_step"] = heads_meter.summary()["seconds_to_first_step"]
        if is_first_host():
            write_json(workdir / "result.json", result)
            shutil.rmtree(heads / "checkpoints", ignore_errors=True)  # not needed once the run is finished
        return result


def _on_one(state: Any, batches: Any, key: jax.Array, *, step: Callable[..., Any], axis: str | None = None) -> Any:
    """Adapts a step on one batch to `train_loop`, which passes batches by name."""
    (batch,) = batches.values()
    return step(state, batch, key, axis=axis)
