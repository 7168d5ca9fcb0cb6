"""Validated settings from recipes and config.json files."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, overload

import ml_collections
from ml_collections import config_dict

from bertjax.config.finetuning import RunConfig
from bertjax.config.trainer import TrainerConfig
from bertjax.errors import UserError, did_you_mean, shown

Kind = TypeVar("Kind", bound=TrainerConfig)


def is_pretraining(values: Mapping[str, Any]) -> bool:
    """Whether the keys of a recipe or a config.json are those of further pre-training."""
    return "corpus" in values


def default_config(kind: type[TrainerConfig] = RunConfig) -> ml_collections.ConfigDict:
    """All keys of a kind of run with their defaults, for a recipe to change; no key can be added."""

    def build(kind: Any) -> ml_collections.ConfigDict:
        config, hints = ml_collections.ConfigDict(), get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.default):
                config[field.name] = build(type(field.default))
            elif field.default is None:
                plain = _plain_type(hints[field.name])
                config[field.name] = config_dict.placeholder(get_origin(plain) or plain)
            else:
                config[field.name] = field.default
        return config.lock()

    return build(kind)


@overload
def read_config(values: Any) -> RunConfig: ...


@overload
def read_config(values: Any, kind: type[Kind]) -> Kind: ...


def read_config(values: Any, kind: type[TrainerConfig] = RunConfig) -> TrainerConfig:
    """Validates a recipe's ConfigDict, or the mapping of a config.json.

    Raises:
      UserError: A key is unknown (the message suggests a similar one), or a value has the wrong type or is out of
        range.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    config: TrainerConfig = _build(kind, values, "--config")
    return config


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected keys and values, found {shown(values)}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}.{name}: no such key{did_you_mean(name, hints)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, value, f"{where}.{name}")
        else:
            arguments[name] = _convert(value, hint, f"{where}.{name}")
    return kind(**arguments)


def _convert(value: Any, hint: Any, where: str) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    kind = _plain_type(hint)
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: expected a number, found one too large") from None
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, get_args(kind)[0], where) for item in value)
    if get_origin(kind) is tuple:
        raise UserError(f"{where}: expected several values, such as \"('a','b')\", found {shown(value)}")
    if type(value) is not kind:
        raise UserError(f"{where}: expected {kind.__name__}, found {shown(value)}")
    return value


def _plain_type(hint: Any) -> Any:
    """The type without None: `int` for `int | None` and for `int`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
