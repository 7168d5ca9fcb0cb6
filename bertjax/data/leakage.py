"""Warnings about evaluation data seen in training: texts shared by splits, and data of earlier training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bertjax.data.sources import normalize_text
from bertjax.data.tsv import Row
from bertjax.tasks import Schema


def dataset_warnings(splits: Mapping[str, Sequence[Row]], schema: Schema) -> list[str]:
    """Warns if all training rows have the same label, and for each held-out split that shares texts with train.

    Texts are compared after `normalize_text`, so case, spaces and Unicode forms make no difference.

    Args:
      splits: rows by split.
      schema: columns of the rows.

    Returns:
      A line for each warning.
    """
    train = splits.get("train", ())
    warnings = []
    if len({row.label for row in train}) == 1:
        label = train[0].label if schema.is_score else schema.label_names[train[0].label]
        warnings.append(f"all {len(train)} rows of train have the label {label}; a model learns only that")
    texts = [_normalized_text(row) for row in train]
    for split in ("dev", "test"):
        held_out = {_normalized_text(row) for row in splits.get(split, ())}
        shared = [row.id for row, text in zip(train, texts, strict=True) if text in held_out]
        if shared:
            warnings.append(
                f"{len(shared)} of {len(train)} rows of train have texts that are also in {split}, the first of them "
                f"{shared[0]}; scores on {split} may be too high"
            )
    return warnings


def _normalized_text(row: Row) -> str:
    return normalize_text(" ".join(row.texts))


# By evaluated task: the datasets that hold its evaluation data, and how.
_CONTAMINATED_BY = {
    "sst5": ({"rated_sst"}, "holds gold SST's sentences, dev and test included"),
    "sst2": ({"rated_sst", "sst5"}, "holds SST's sentences, and sst2 consists of their phrases"),
    "quora": ({"qqp"}, "has the same questions in other splits"),
    "qqp": ({"quora"}, "has the same questions in other splits"),
    "sts": ({"stsb"}, "is the same benchmark in other splits"),
    "stsb": ({"sts"}, "is the same benchmark in other splits"),
    "rated_sst": ({"sst5", "sst2"}, "has the same sentences in other splits"),
    "rated_editorials": ({"editorials"}, "holds its sentences, dev and test included, without their ratings"),
}
_SEEN_BY_STARTERS = ("quora", "qqp", "mnli")


def contamination_warnings(lineage: Sequence[Mapping[str, Any]], tasks: Iterable[str]) -> list[str]:
    """Warns for each task that earlier training may have seen evaluation data of.

    Args:
      lineage: a result's lineage: entries {"init_from"}, {"trained_on"} or {"pretrained_on"}, oldest first. The
        starter models' entries have a "note".
      tasks: names of the evaluated tasks.

    Returns:
      A line for each warning.
    """
    trained_on = {entry.get("trained_on") or entry.get("pretrained_on") for entry in lineage}
    is_from_starter = any("note" in entry for entry in lineage)
    warnings = []
    for task in tasks:
        sources, how = _CONTAMINATED_BY.get(task, (set(), ""))
        warnings += [f"{task}: this model was trained on {name}, which {how}" for name in sorted(sources & trained_on)]
        if is_from_starter and task in _SEEN_BY_STARTERS:
            warnings.append(f"{task}: the starter model's own training saw Quora duplicates, SNLI and MultiNLI")
    return warnings
