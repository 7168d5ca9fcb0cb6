"""Heads for a run's tasks: the checkpoint's own where they predict the same thing, new ones elsewhere."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.errors import shown
from bertjax.label_scale import LabelScale
from bertjax.models.config import BertConfig

_SEVERAL = {"multi_label_classification": "several labels at once", "regression": "several scores at once"}
"""By problem type."""
_MAX_BIAS = 5.0
"""Standard deviations from the labels' mean beyond which a head's bias must be in other units."""


def matching_heads(
    params: Mapping[str, Any],
    stored_classes: Mapping[str, Sequence[str]],
    task_classes: Mapping[str, Sequence[str]],
    problem_type: str | None = None,
) -> dict[str, Any]:
    """The tree with a "head_TASK" for each task whose classes a stored head has: its own, or else "classifier".

    A line on stderr reports each head that is left out, because its classes or their number differ or because it
    predicts several labels at once. It also reports each head that does not name its classes and is kept because their
    number is right.

    Args:
      params: the tree from `load_pretrained`.
      stored_classes: class names by head, from `head_class_names`.
      task_classes: class names by task, in order; empty for a score.
      problem_type: what "classifier" is trained for, from `classifier_problem_type`.
    """
    kept = {top: tree for top, tree in params.items() if top != "classifier"}
    for task, classes in task_classes.items():
        own = f"head_{task}"
        head = own if own in params else "classifier"
        if head not in params:
            continue
        if head == "classifier" and not _predicts_one_label(params[head], problem_type):
            print(f"{task}: a new head: the checkpoint's is for {_SEVERAL[str(problem_type)]}", file=sys.stderr)
            continue
        names = stored_classes.get(head)
        if names is not None and not _are_same_classes(names, classes):
            print(
                f"{task}: a new head: the checkpoint's is for {shown(names) if names else 'a score'}", file=sys.stderr
            )
            kept.pop(own, None)
        elif params[head]["bias"].shape == (len(classes) or 1,):
            kept[own] = params[head]
            if names is None and classes:
                print(
                    f"{task}: the checkpoint does not name the classes of its head; assumed to be {', '.join(classes)}",
                    file=sys.stderr,
                )
        else:
            outputs, wanted = params[head]["bias"].size, len(classes) or 1
            print(f"{task}: a new head: the checkpoint's has {outputs} outputs, here {wanted}", file=sys.stderr)
            kept.pop(own, None)
    return kept


def _predicts_one_label(head: Mapping[str, Any], problem_type: str | None) -> bool:
    is_one_score = problem_type == "regression" and head["bias"].shape == (1,)
    return problem_type not in _SEVERAL or is_one_score


def _are_same_classes(names: Sequence[str], classes: Sequence[str]) -> bool:
    if not classes:  # a score; some checkpoints name its one output
        return len(names) < 2
    return [name.casefold() for name in names] == [name.casefold() for name in classes]


def standardize_heads(
    params: Mapping[str, Any], stored_scales: Mapping[str, LabelScale], task_scales: Mapping[str, LabelScale]
) -> dict[str, Any]:
    """The tree with score heads converted from the labels' units to this run's standardised units.

    A head trained on labels of another scale is left out. A head of unknown scale is assumed to be in the labels'
    units, unless its bias is far from them. A line on stderr reports both.

    Args:
      params: from `matching_heads`.
      stored_scales: by head, from `head_label_scales`.
      task_scales: by task.
    """
    converted = dict(params)
    for task, scale in task_scales.items():
        head = f"head_{task}"
        if head not in params or params[head]["bias"].shape != (1,):
            continue
        stored = stored_scales.get(head, stored_scales.get("classifier"))
        unfolded = scale.unfold(params[head])
        is_far = abs(float(unfolded["bias"][0])) > _MAX_BIAS if stored is None else not scale.is_near(stored)
        if is_far:
            del converted[head]
            units = "in other units" if stored is None else f"of {stored}"
            print(f"{task}: a new head: the checkpoint's is for scores {units}, here {scale}", file=sys.stderr)
            continue
        converted[head] = unfolded
        if stored is None:
            print(
                f"{task}: the checkpoint does not state the units of its head's scores; assumed to be those of the "
                f"labels, {scale}",
                file=sys.stderr,
            )
    return converted


def with_heads(
    params: Mapping[str, Any], config: BertConfig, heads: Mapping[str, int], key: jax.Array
) -> dict[str, Any]:
    """The encoder with a head for each name: a stored one if its shape is right, else a new one.

    The stored one is "head_NAME", or else "classifier". All other heads, and "mlm", are left out.

    Args:
      params: the tree from `load_pretrained`.
      config: its architecture.
      heads: number of outputs by name.
      key: for new kernels, N(0, initializer_range²); new biases are zero.
    """
    encoder = {top: tree for top, tree in params.items() if not _is_head(top)}
    for i, (name, outputs) in enumerate(sorted(heads.items())):
        stored = [params[top] for top in (f"head_{name}", "classifier") if top in params]
        fitting = [head for head in stored if head["bias"].shape == (outputs,)]
        if fitting:
            encoder[f"head_{name}"] = jax.tree.map(jnp.copy, fitting[0])
            continue
        shape = (config.hidden_size, outputs)
        kernel = config.initializer_range * jax.random.normal(jax.random.fold_in(key, i), shape)
        encoder[f"head_{name}"] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return encoder


def _is_head(top: str) -> bool:
    return top in ("classifier", "mlm") or top.startswith("head_")
