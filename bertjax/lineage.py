"""What a model's past says against a score of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def warnings(lineage: Sequence[Mapping[str, Any]], tasks: Iterable[str]) -> list[str]:
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
