"""Task heads: a checkpoint's own where they fit the run's tasks, new ones elsewhere."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.errors import shown
from bertjax.label_scale import LabelScale
from bertjax.models.config import BertConfig

_FAR = 5.0
"""Standard deviations of the labels from their mean, beyond which a head's bias is in other units."""


def fitting_heads(
    params: Mapping[str, Any], labels: Mapping[str, Sequence[str]], classes: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The tree with, as a task's "head_TASK", its own head or else the classifier, where the classes are the task's.

    Lines on stderr tell of a head whose classes are others, which is left out, and of one whose classes have no names:
    their order is taken on trust.

    Args:
      params: the tree from `load_pretrained`.
      labels: its heads' classes, from `head_labels`.
      classes: by task, in order; none for a score.
    """
    fitting = {top: tree for top, tree in params.items() if top != "classifier"}
    for name, ours in classes.items():
        own = f"head_{name}"
        top = own if own in params else "classifier"
        if top not in params:
            continue
        theirs = labels.get(top)
        if theirs is not None and not _are_same(theirs, ours):
            told = shown(theirs) if theirs else "a score"
            print(f"{name}: a new head: the checkpoint's is for {told}", file=sys.stderr)
            fitting.pop(own, None)
        elif params[top]["bias"].shape == (len(ours) or 1,):
            fitting[own] = params[top]
            if theirs is None and ours:
                print(f"{name}: a head of classes without names, taken for {', '.join(ours)}", file=sys.stderr)
    return fitting


def standardized_heads(
    params: Mapping[str, Any], theirs: Mapping[str, LabelScale], ours: Mapping[str, LabelScale]
) -> dict[str, Any]:
    """The tree with score heads converted from the labels' units to this run's standardised units.

    A head trained on labels of another scale is left out. A head of unknown scale is taken to be in the labels' units,
    unless its bias is far from them. Lines on stderr say so.

    Args:
      params: from `fitting_heads`.
      theirs: from `head_scales`.
      ours: by task.
    """
    found = dict(params)
    for name, scale in ours.items():
        head = f"head_{name}"
        if head not in params or params[head]["bias"].shape != (1,):
            continue
        known = theirs.get(head, theirs.get("classifier"))
        unfolded = scale.unfold(params[head])
        is_far = abs(float(unfolded["bias"][0])) > _FAR if known is None else not scale.is_near(known)
        if is_far:
            del found[head]
            about = "in other units" if known is None else f"of {known}"
            print(f"{name}: a new head: the checkpoint's is for scores {about}, here {scale}", file=sys.stderr)
            continue
        found[head] = unfolded
        if known is None:
            print(
                f"{name}: the checkpoint does not say which scores its head is for; taken for those of the labels, "
                f"{scale}",
                file=sys.stderr,
            )
    return found


def _are_same(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    if not ours:  # a score, whose one output some name
        return len(theirs) < 2
    return [name.casefold() for name in theirs] == [name.casefold() for name in ours]


def with_heads(
    params: Mapping[str, Any], config: BertConfig, heads: Mapping[str, int], key: jax.Array
) -> dict[str, Any]:
    """The encoder with a head for each task: the checkpoint's own where its shape is right, else a new one.

    The checkpoint's own is "head_NAME", or else "classifier"; those not asked for, and "mlm", are left out.

    Args:
      params: the tree from `load_pretrained`.
      config: its architecture.
      heads: outputs of each head by its name.
      key: for the new heads' kernels, N(0, initializer_range²); their biases are zero.
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
