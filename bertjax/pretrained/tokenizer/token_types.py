"""Takes token types out of a tokenizer, for checkpoints to which Transformers passes none."""

import json
from typing import Any

from tokenizers import Tokenizer

_PLAIN = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {},
}


def without_token_types(tokenizer: Tokenizer) -> Tokenizer:
    """A copy whose token types are all 0."""
    content = json.loads(tokenizer.to_str())
    content["post_processor"] = _without(content["post_processor"])
    copy = Tokenizer.from_str(json.dumps(content))
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    return copy


def _without(processor: dict[str, Any] | None) -> dict[str, Any]:
    kind = "ByteLevel" if processor is None else processor["type"]
    if processor is None or kind == "ByteLevel":  # without a template, the second text has type 1
        return _PLAIN
    if kind == "TemplateProcessing":
        return processor | {name: [_zeroed(piece) for piece in processor[name]] for name in ("single", "pair")}
    if kind == "BertProcessing":
        cls, sep = (_special(token) for token, _ in (processor["cls"], processor["sep"]))
        a, b = _PLAIN["pair"]
        ids = dict((processor["cls"], processor["sep"]))
        tokens = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()}
        return _PLAIN | {"single": [cls, a, sep], "pair": [cls, a, sep, b, sep], "special_tokens": tokens}
    if kind == "Sequence":
        # ByteLevel only changes offsets, which are not used here.
        parts = [part for part in processor["processors"] if part["type"] != "ByteLevel"]
        return processor | {"processors": [_without(part) for part in parts] or [_PLAIN]}
    return processor  # RoBERTa's has no types


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _zeroed(piece: dict[str, Any]) -> dict[str, Any]:
    return {kind: value | {"type_id": 0} for kind, value in piece.items()}
