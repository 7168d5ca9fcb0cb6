"""Where the encoder is among a checkpoint's tensors: wrappers leave prefixes, and other modules may lie beside it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bertjax.errors import UserError
from bertjax.models.families.family import Family
from bertjax.models.other_families import other_family
from bertjax.pretrained.notes import note
from bertjax.pretrained.param_names import shorten
from bertjax.pretrained.tensors import StoredTensor

_BUFFERS = re.compile(r"(.*\.)?embeddings\.(position_ids|token_type_ids)")
_PEFT = re.compile(r"(^|[._])lora_|\.base_layer\.|modules_to_save")
# Beside an encoder without a prefix, so perhaps part of it.
_LIKE_ENCODER = re.compile(
    r"(bert|encoder|pooler|layer|rel_|relative|attention)|.*(embed|norm|position)", re.IGNORECASE
)
_CHANGES_ENCODER = re.compile(r"(.*[._])?(adapters?|prefix|prompts?)[._]", re.IGNORECASE)


class TensorGroups(NamedTuple):
    """The tensors of a checkpoint.

    Attributes:
      encoder: by names without the prefix; all must belong to the family's.
      beside: tensors where Transformers puts heads, by names without the wrapper's prefix.
      others: full names of all others.
    """

    encoder: dict[str, StoredTensor]
    beside: dict[str, StoredTensor]
    others: list[str]


def group_tensors(folder: Path, family: Family, tensors: Mapping[str, StoredTensor]) -> TensorGroups:
    """Groups tensors by their place beside the word embeddings, without buffers.

    A line on stderr reports a prefix other than the family's, such as "bert.".

    Raises:
      UserError: there is no encoder or more than one, it belongs to another family, or PEFT's adapters are not merged.
    """
    if unmerged := sorted(name for name in tensors if _PEFT.search(name)):
        raise UserError(
            f"{folder}: expected plain weights, found unmerged adapters of PEFT: {shorten(unmerged, 3)}; load them "
            "with peft as they were saved, then run model.merge_and_unload().save_pretrained(FOLDER)"
        )
    prefix = _encoder_prefix(folder, family, tensors)
    if prefix not in ("", family.prefix):
        note(f"{folder}: the encoder's tensors begin with {prefix!r}; read without that prefix")
    is_shared = all(name.startswith(prefix) for name in tensors)
    wrapper: str | None = prefix if is_shared else None
    if f".{prefix}".endswith(f".{family.prefix}"):
        wrapper, is_shared = prefix.removesuffix(family.prefix), False
    modules = tuple({f"{name.partition('.')[0]}." for name in (*family.modules.values(), "pooler")})
    groups = TensorGroups({}, {}, [])
    for name, tensor in tensors.items():
        if _BUFFERS.fullmatch(name):
            continue
        relative = name.removeprefix(prefix)
        is_inside = name.startswith(prefix) and (not is_shared or _is_like_encoder(relative, modules))
        if is_inside or _CHANGES_ENCODER.match(name):
            groups.encoder[relative] = tensor._replace(name=relative)
        elif wrapper is not None and name.startswith(wrapper):
            beside = name.removeprefix(wrapper)
            groups.beside[beside] = tensor._replace(name=beside)
        else:
            groups.others.append(name)
    return groups


def _encoder_prefix(folder: Path, family: Family, names: Iterable[str]) -> str:
    names, words = sorted(names), f"{family.modules['embeddings/word']}.weight"
    prefixes = sorted(name.removesuffix(words) for name in names if f".{name}".endswith(f".{words}"))
    if not prefixes:
        raise UserError(
            f"{folder}: expected a {family.config.title} with a tensor {words}, found {_described(names)}; "
            "use another folder"
        )
    if len(prefixes) > 1:
        listed = shorten([repr(prefix) for prefix in prefixes], 3)
        raise UserError(
            f"{folder}: expected one encoder, found {len(prefixes)}, whose tensors begin with {listed}; save the one "
            "to use as a checkpoint of its own"
        )
    (prefix,) = prefixes
    for part in prefix.split("."):
        other = "bert" if part == "bert" else other_family(part)
        if other and other not in (family.prefix.removesuffix("."), other_family(family.config.model_type)):
            raise UserError(
                f"{folder}: expected {family.config.title}'s tensors, found {prefix}{words}, of the family {other}; "
                "config.json must have the model_type of its tensors"
            )
    return prefix


def _is_like_encoder(name: str, modules: tuple[str, ...]) -> bool:
    return name.startswith(modules) or _LIKE_ENCODER.match(name.partition(".")[0]) is not None


def _described(names: list[str]) -> str:
    if not names:
        return "no tensors"
    first, last = names[0].split(".")[:-1], names[-1].split(".")[:-1]
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    start = f"all beginning with {'.'.join(first[:shared]) + '.'!r}" if shared else "without a common prefix"
    return f"{len(names)} tensor{'s' * (len(names) > 1)} {start}, such as {names[0]}"
