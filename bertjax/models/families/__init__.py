"""The families of encoders that are read, by `model_type`.

To add a post-norm relative of BERT, write a file with its config and its `Family`, and list it here.
Another architecture brings a module, too, as `modernbert` does.
"""

from collections.abc import Mapping
from typing import Any

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.encoder import Encoder
from bertjax.models.families.bert import BERT
from bertjax.models.families.deberta import DEBERTA_V2
from bertjax.models.families.distilbert import DISTILBERT
from bertjax.models.families.electra import ELECTRA
from bertjax.models.families.family import Family
from bertjax.models.families.modernbert import MODERNBERT
from bertjax.models.families.mpnet import MPNET
from bertjax.models.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

FAMILIES: Mapping[str, Family] = {
    family.config.model_type: family
    for family in (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, MPNET, DEBERTA_V2, MODERNBERT)
}


def family_of(config: BertConfig) -> Family:
    """The family of an architecture."""
    return FAMILIES[config.model_type].for_config(config)


def build_encoder(config: BertConfig, heads: Mapping[str, int] | None = None, **options: Any) -> Encoder:
    """The module of an architecture; see `Encoder` for the arguments."""
    return family_of(config).module(config, heads or {}, **options)


def config_from_dict(values: Mapping[str, Any]) -> BertConfig:
    """Reads a parsed `config.json` of any family; one without a `model_type` is BERT's.

    Raises:
      UserError: The family is unknown, or see `BertConfig.from_dict`.
    """
    model_type = values.get("model_type", "bert")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f"config: model_type must be one of {', '.join(sorted(FAMILIES))}, found {model_type!r:.80}")
    return FAMILIES[model_type].config.from_dict(values)
