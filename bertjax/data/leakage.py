"""What is no error in a dataset, but leaves its scores worth less."""

from collections.abc import Mapping, Sequence

from bertjax.data.rows import Row
from bertjax.data.schema import Schema
from bertjax.data.sources import normalised


def warnings(splits: Mapping[str, Sequence[Row]], schema: Schema) -> list[str]:
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
    return normalised(" ".join(row.texts))
