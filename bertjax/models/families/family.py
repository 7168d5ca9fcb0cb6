"""What Transformers' checkpoints of a family look like, as data."""

import dataclasses
from collections.abc import Mapping

from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.encoder import Encoder

LAYER = "encoder.layer.{}."


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of encoders.

    Modules are named by their path in our parameter tree, such as "layer/query" or "pooler", and map to the name of
    Transformers' module.

    Attributes:
      config: Its architecture.
      class_name: How the names of its classes in Transformers begin.
      tokenizer: The tokenizer's class where no file states it; "PreTrainedTokenizer" takes tokenizer.json as it is.
      prefix: How the encoder's tensors begin in models with heads.
      modules: The encoder's, without that prefix; "{}" stands for the layer's number.
      pooler: The pooler's module in the plain encoder, or None if it has none.
      classifier: Modules of a sentence head: "classifier", and "pooler" if the head has one of its own.
      mlm: Modules of the masked-language-modelling head, but for its bias.
      mlm_bias: Tensor with the bias of its decoder, if that has one.
      mlm_decoder: Module of its decoder, which is tied to the word embeddings; None if it reads them itself.
      nsp: Module of the next-sentence head, or None if the family has none.
      unused: Tensors of the encoder that Transformers ignores if the architecture has no use for them.
      module: The Linen module that computes the architecture.
    """

    config: type[BertConfig]
    class_name: str
    tokenizer: str
    prefix: str
    modules: Mapping[str, str]
    pooler: str | None
    classifier: Mapping[str, str]
    mlm: Mapping[str, str]
    mlm_bias: str
    mlm_decoder: str | None
    nsp: str | None = None
    unused: tuple[str, ...] = ()
    module: type[Encoder] = Bert

    @property
    def pretraining_heads(self) -> Mapping[str, int]:
        """Number of outputs, by name, of the sentence heads that the family was pre-trained with: "nsp" or none."""
        return {} if self.nsp is None else {"nsp": 2}

    def for_config(self, config: BertConfig) -> "Family":
        """The family as a checkpoint of this architecture looks; names of heads may depend on it."""
        del config
        return self


BERT_MODULES: Mapping[str, str] = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/token_type": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "layer/query": f"{LAYER}attention.self.query",
    "layer/key": f"{LAYER}attention.self.key",
    "layer/value": f"{LAYER}attention.self.value",
    "layer/attention_output": f"{LAYER}attention.output.dense",
    "layer/attention_norm": f"{LAYER}attention.output.LayerNorm",
    "layer/intermediate": f"{LAYER}intermediate.dense",
    "layer/output": f"{LAYER}output.dense",
    "layer/output_norm": f"{LAYER}output.LayerNorm",
}
"""BERT's names, which most relatives share."""
