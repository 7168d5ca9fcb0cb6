"""Evaluation data seen in training: rows shared between splits, and what earlier training saw."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bertjax.data.sources import normalize_text
from bertjax.data.tsv import Row
from bertjax.tasks import Schema


def dataset_warnings(splits: Mapping[str, Sequence[Row]], schema: Schema) -> list[str]:
    """A line for a training set with one label only, and for each held-out split whose texts stand in train, too.

    Texts are compared as `split_of` compares them, so case, spaces and forms of a letter do not count.

    Args:
      splits: by name.
      schema: of the rows.
    """
    train = splits.get("train", ())
    found = []
    if len({row.label for row in train}) == 1:
        label = train[0].label if schema.is_score else schema.label_names[train[0].label]
        found.append(f"all {len(train)} rows of train have the label {label}; there is nothing else to learn from them")
    texts = [_text(row) for row in train]
    for split in ("dev", "test"):
        held_out = {_text(row) for row in splits.get(split, ())}
        seen = [row.id for row, text in zip(train, texts, strict=True) if text in held_out]
        if seen:
            found.append(
                f"{len(seen)} of {len(train)} rows of train have texts that also stand in {split}, the first of them "
                f"{seen[0]}; scores on {split} may be too high"
            )
    return found


def _text(row: Row) -> str:
    return normalize_text(" ".join(row.texts))


_SEEN = {
    "sst5": ({"rated_sst"}, "holds gold SST's sentences, dev and test included"),
    "sst2": ({"rated_sst", "sst5"}, "holds sentences of SST, of whose phrases sst2 is made"),
    "quora": ({"qqp"}, "is of the same questions, split otherwise"),
    "qqp": ({"quora"}, "is of the same questions, split otherwise"),
    "sts": ({"stsb"}, "is the same benchmark, split otherwise"),
    "stsb": ({"sts"}, "is the same benchmark, split otherwise"),
    "rated_sst": ({"sst5", "sst2"}, "holds the same sentences, split otherwise"),
    "rated_editorials": ({"editorials"}, "holds its sentences, dev and test included, without their ratings"),
}


_STARTER_SAW = ("quora", "qqp", "mnli")


def contamination_warnings(lineage: Sequence[Mapping[str, Any]], tasks: Iterable[str]) -> list[str]:
    """A line for each task whose evaluation data an earlier training may have seen.

    Args:
      lineage: as in result.json, entries {"init_from"}, {"trained_on"} or {"pretrained_on"}, the oldest first.
      tasks: names of what is evaluated.
    """
    earlier = {entry.get("trained_on") or entry.get("pretrained_on") for entry in lineage}
    starters = any("note" in entry for entry in lineage)
    found = []
    for task in tasks:
        seen, why = _SEEN.get(task, (set(), ""))
        found += [f"{task}: this model was trained on {name}, which {why}" for name in sorted(seen & earlier)]
        if starters and task in _STARTER_SAW:
            found.append(f"{task}: the starter model's own training saw Quora duplicates, SNLI and MultiNLI")
    return found
