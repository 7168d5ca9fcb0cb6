"""What a row of a task's data holds: which texts, and what kind of label."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a task.

    Attributes:
      texts: names of the text columns: one, or two for a pair.
      label: name of the label column.
      label_names: of the classes, which the files number from 0; empty for a score.
      low: a score's least value.
      high: its greatest.
    """

    texts: tuple[str, ...]
    label: str
    label_names: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def is_score(self) -> bool:
        """Whether labels are numbers and not classes."""
        return not self.label_names
