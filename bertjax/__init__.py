"""Pure-functional Flax encoders of BERT's family, fine-tuned with SMART.

Names are imported on first use, so that `import bertjax.smart` imports neither Flax nor any reader of checkpoints.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax import smart
    from bertjax.models.bert import Bert
    from bertjax.models.config import BertConfig
    from bertjax.models.encoder import Encoder
    from bertjax.models.families import build_encoder
    from bertjax.models.inference import classify, encode
    from bertjax.pretrained import load_pretrained

__all__ = ["Bert", "BertConfig", "Encoder", "build_encoder", "classify", "encode", "load_pretrained", "smart"]
_MODULES = {
    "Bert": "models.bert",
    "BertConfig": "models.config",
    "Encoder": "models.encoder",
    "build_encoder": "models.families",
    "classify": "models.inference",
    "encode": "models.inference",
    "load_pretrained": "pretrained",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name == "smart":
        return importlib.import_module("bertjax.smart")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"bertjax.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
