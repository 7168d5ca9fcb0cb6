"""Which of a checkpoint's heads a fine-tuning run begins with, by the checkpoint's own files."""

from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import GOLDEN, TENSORS, write_checkpoint

from bertjax.pretrained import load_pretrained
from bertjax.training import finetuning

HEAD = {"classifier.weight": np.ones((2, 12), np.float32), "classifier.bias": np.ones(2, np.float32)}
SENTENCES = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}}


@pytest.mark.parametrize(
    ("config", "is_kept"),
    [
        (SENTENCES, True),
        (SENTENCES | {"problem_type": "single_label_classification"}, True),
        (SENTENCES | {"problem_type": "multi_label_classification"}, False),
        (SENTENCES | {"problem_type": "regression"}, False),
        (SENTENCES | {"architectures": ["BertForTokenClassification"]}, False),
    ],
)
def test_a_task_of_one_label_takes_a_head_of_one_label(tmp_path, capsys, config, is_kept):
    folder = write_checkpoint(tmp_path, TENSORS | HEAD, GOLDEN["config"] | config)
    task = SimpleNamespace(name="a", schema=SimpleNamespace(label_names=("no", "yes")))
    inputs = SimpleNamespace(tasks=[task], folder=folder, scales={})
    assert ("head_a" in finetuning._own_heads(load_pretrained(folder)[1], inputs)) == is_kept
    assert bool(capsys.readouterr().err) != is_kept


def test_a_problem_type_without_a_head_does_not_matter(tmp_path):
    folder = write_checkpoint(tmp_path, TENSORS, GOLDEN["config"] | {"problem_type": "ranking"})
    inputs = SimpleNamespace(tasks=[], folder=folder, scales={})
    finetuning._own_heads(load_pretrained(folder)[1], inputs)
