"""Settings of further pre-training."""

import dataclasses

from bertjax.config.trainer import TrainerConfig


@dataclasses.dataclass(frozen=True)
class PretrainConfig(TrainerConfig):
    """Settings of a run of further pre-training, in addition to those of `TrainerConfig`.

    Attributes:
      corpus: `editorials`, a folder of .txt files, or a .csv file; see `data.corpus.load_corpus`.
      head_epochs: Epochs of a first stage that trains the heads alone, if the checkpoint lacks any.
      head_learning_rate: Peak learning rate of that stage.
      whole_word: Whether a word's pieces are masked together.

    Raises:
      UserError: A value is out of range.
    """

    corpus: str = "editorials"
    epochs: int = 10
    head_epochs: int = 5
    head_learning_rate: float = 1e-3
    whole_word: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("head_epochs")
        self.check_amounts("head_learning_rate")
        self.check_max_length(8)  # room for a pair of texts, where a family takes pairs
