"""A pure-functional Flax BERT, fine-tuned with SMART.

Names are imported on first use: `import bertjax.smart` needs neither Flax nor what reads checkpoints.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax import smart
    from bertjax.models.bert import Bert, encode
    from bertjax.models.config import BertConfig
    from bertjax.pretrained import load_pretrained


__all__ = ["Bert", "BertConfig", "encode", "load_pretrained", "smart"]


_HOMES = {
    "Bert": "models.bert",
    "BertConfig": "models.config",
    "encode": "models.bert",
    "load_pretrained": "pretrained",
}


def __getattr__(name: str) -> Any:
    """Imports a public name (PEP 562)."""
    if name == "smart":
        return importlib.import_module("bertjax.smart")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"bertjax.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
