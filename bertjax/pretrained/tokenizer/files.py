"""What a checkpoint's small files declare about its tokenizer, merged as Transformers merges them.

`tokenizer_config.json` states the class, settings, special tokens and, since Transformers 4.34, every added token with
its id (`added_tokens_decoder`). Older files state special tokens in `special_tokens_map.json` and added tokens in
`added_tokens.json`. Transformers ignores these two if `added_tokens_decoder` exists; here they must then agree with it.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken

from bertjax.errors import UserError, shown
from bertjax.files.json_files import MIB, check_shape, read_json
from bertjax.pretrained.encoder_files import CONFIG_FILES
from bertjax.pretrained.tokenizer.classes import CLASSES

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""In the order in which Transformers adds the tokens to a vocabulary that lacks them."""
GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes that take tokenizer.json as it is, without "Fast"."""
READABLE_CLASSES = (*GENERIC_CLASSES, *CLASSES)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""Of an added token."""
_REMEDY = "fix it"


class DeclaredToken(NamedTuple):
    """An added token, its id and the file that states them."""

    token: AddedToken
    id: int
    file: Path


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The declarations about a tokenizer in a folder's small files; vocabulary and tokenizer.json are not read.

    Attributes:
      folder: the checkpoint.
      class_name: tokenizer class without "Fast", or None if no file states it; `class_file` is the file that does.
      model_type: the model's family in config.json, or None.
      settings: the contents of tokenizer_config.json.
      special: named special tokens, such as "cls_token"; names that no file states are missing.
      ignored: named special tokens in special_tokens_map.json alone, which Transformers ignores beside
        `added_tokens_decoder`.
      extra: further special tokens, in order.
      added: added tokens with ids, in order of id, from `added_tokens_decoder` or else `added_tokens.json`.
      has_decoder: whether `added_tokens_decoder` exists.
      special_in_map_alone: contents of those of `extra` that special_tokens_map.json alone states.
    """

    folder: Path
    class_name: str | None
    class_file: Path
    model_type: str | None
    settings: Mapping[str, Any]
    special: Mapping[str, AddedToken]
    ignored: Mapping[str, AddedToken]
    extra: tuple[AddedToken, ...]
    added: tuple[DeclaredToken, ...]
    has_decoder: bool
    special_in_map_alone: tuple[str, ...]

    @property
    def config_path(self) -> Path:
        """The path of tokenizer_config.json, which need not exist."""
        return self.folder / TOKENIZER_CONFIG

    def flag(self, name: str) -> bool | None:
        """A setting that is true, false or absent; UserError if it is anything else."""
        value = self.settings.get(name)
        if value is not None and not isinstance(value, bool):
            raise UserError(
                f"{self.config_path}: {name}: expected true, false or null, found {shown(value)}; {_REMEDY}"
            )
        return value

    def has_token_types(self, default: bool) -> bool:
        """Whether model_input_names lists token types; `default` if it is not stated."""
        names = self.settings.get("model_input_names")
        return "token_type_ids" in names if isinstance(names, list) else default


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Reads the declarations.

    Raises:
      UserError: a file is broken, files contradict each other, or the tokenizer needs its author's own code.
    """
    path = folder / TOKENIZER_CONFIG
    settings = _read(path)
    class_name, class_file = _class_name(folder, settings)
    special, extra = _special_tokens(settings, path)
    map_path = folder / SPECIAL_TOKENS_MAP
    from_map, extra_from_map = _special_tokens(_read(map_path), map_path)
    has_decoder = settings.get("added_tokens_decoder") is not None
    added: list[DeclaredToken] = []
    special_in_map_alone: list[str] = []
    if has_decoder:
        added = _decoder(settings["added_tokens_decoder"], path)
        known = {each.token.content for each in added} | {token.content for token in (*extra, *special.values())}
        _check_map(special, from_map, known, extra_from_map, folder)
    else:
        special |= from_map
        known = {token.content for token in (*extra, *special.values())}
        new = [token for token in extra_from_map if token.content not in known]
        extra += new
        special_in_map_alone = [token.content for token in new]
    older = _added_tokens(folder / ADDED_TOKENS, {token.content for token in (*special.values(), *extra)})
    if has_decoder:
        _check_older(older, added)
    else:
        added = older
    by_content = {declared.token.content: declared.token for declared in added}  # these state all their flags
    return TokenizerFiles(
        folder,
        class_name,
        class_file,
        _model_type(folder),
        settings,
        {name: by_content.get(token.content, token) for name, token in special.items()},
        {name: token for name, token in from_map.items() if name not in special},
        tuple(by_content.get(token.content, token) for token in extra),
        tuple(added),
        has_decoder,
        tuple(special_in_map_alone),
    )


def _read(path: Path, remedy: str = "fix it, or delete it to use BERT's settings") -> dict[str, Any]:
    try:
        values: dict[str, Any] = read_json(path, remedy, {}, max_bytes=8 * MIB)
    except FileNotFoundError:
        return {}
    return values


def _model_type(folder: Path) -> str | None:
    value = _read(folder / CONFIG_FILES[0], "get the file again").get("model_type")
    return value if isinstance(value, str) else None


def _class_name(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, Path]:
    """The class that Transformers would take; UserError if two files state different ones, or code is needed."""
    path = folder / TOKENIZER_CONFIG
    stated = []
    model_configs = ((folder / name, _read(folder / name, "get the file again")) for name in CONFIG_FILES)
    for file, values in ((path, settings), *model_configs):
        auto_map = values.get("auto_map")
        if isinstance(auto_map, list) or (isinstance(auto_map, dict) and "AutoTokenizer" in auto_map):
            raise UserError(
                f"{file}: expected a tokenizer of the library, found auto_map, which names its author's own code; "
                "if the files describe the tokenizer without that code, remove auto_map"
            )
        if (name := values.get("tokenizer_class")) is None:
            continue
        if not isinstance(name, str):
            raise UserError(f"{file}: tokenizer_class: expected a string, found {shown(name)}; {_REMEDY}")
        stated.append((name, file))
    if not stated:
        return None, path
    # Transformers takes the first. Another class that cannot be read from its files casts doubt on it.
    (first, first_file), *others = stated
    for second, second_file in others:
        if second.removesuffix("Fast") not in (first.removesuffix("Fast"), *READABLE_CLASSES):
            raise UserError(
                f"{first_file}: tokenizer_class: expected {shown(second)}, as in {second_file.name}, found "
                f"{shown(first)}; correct the wrong one"
            )
    return first.removesuffix("Fast"), first_file


def _token(value: Any, special: bool, path: Path, where: str) -> AddedToken:
    """A token as a string or as an object with flags."""
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=not special)
    if not isinstance(value, dict):
        raise UserError(f"{path}: {where}: expected a string, found {shown(value)}; {_REMEDY}")
    check_shape(value, {"content": str}, path, _REMEDY, where)
    flags = {name: value[name] for name in FLAGS if name in value}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise UserError(f"{path}: {where}.{name}: expected true or false, found {shown(flag)}; {_REMEDY}")
    flags = {"special": special} | flags
    return AddedToken(value["content"], **({"normalized": not flags["special"]} | flags))


def _special_tokens(values: Mapping[str, Any], path: Path) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The special tokens that have a name, and the others: a list, or an object in Transformers 5."""
    special = {name: _token(values[name], True, path, name) for name in SPECIAL_NAMES if values.get(name) is not None}
    extra: dict[str, AddedToken] = {}
    lists = ("additional_special_tokens", "extra_special_tokens")
    if values.get(lists[0]) and values.get(lists[1]) and values[lists[0]] != values[lists[1]]:
        raise UserError(f"{path}: expected one of {' and '.join(lists)}, found both; remove the wrong one")
    for name in lists:
        listed = values.get(name) or []
        if not isinstance(listed, list | dict):
            raise UserError(f"{path}: {name}: expected a list, found {shown(listed)}; {_REMEDY}")
        for key, value in listed.items() if isinstance(listed, dict) else enumerate(listed):
            token = _token(value, True, path, f"{name}[{key!r}]")
            extra.setdefault(token.content, token)
    return special, list(extra.values())


def check_other_names(files: TokenizerFiles, added: Iterable[DeclaredToken]) -> None:
    """UserError for a setting that makes a token special in Transformers 5 alone, unless it is one of `added`."""
    tokens = (*(each.token for each in added), *files.extra, *files.special.values())
    known = {token.content for token in tokens}
    for name, value in files.settings.items():
        is_name = name.endswith("_token") and name not in SPECIAL_NAMES and isinstance(value, str)
        if is_name and value not in known:
            raise UserError(
                f"{files.config_path}: {name}: expected a name of a special token, such as cls_token, found another "
                f"for {shown(value)}; list the token in additional_special_tokens, or remove it"
            )


def _decoder(values: Any, path: Path) -> list[DeclaredToken]:
    where = "added_tokens_decoder"
    check_shape(values, {str: {"content": str}}, path, _REMEDY, where)
    declared = []
    for key, value in values.items():
        if not key.isdecimal():
            raise UserError(f"{path}: {where}: expected ids, found {shown(key)}; {_REMEDY}")
        declared.append(DeclaredToken(_token(value, False, path, f"{where}.{key}"), int(key), path))
    return _sorted(declared)


def _added_tokens(path: Path, special: set[str]) -> list[DeclaredToken]:
    values = _read(path)
    check_shape(values, {str: int}, path, _REMEDY)
    return _sorted(
        DeclaredToken(AddedToken(token, special=token in special, normalized=token not in special), index, path)
        for token, index in values.items()
    )


def _sorted(declared: Iterable[DeclaredToken]) -> list[DeclaredToken]:
    """In order of id; UserError if a token or an id appears twice."""
    ordered = sorted(declared, key=lambda each: each.id)
    for first, second in itertools.pairwise(ordered):
        if first.id == second.id:
            raise UserError(
                f"{first.file}: expected an id for each added token, found {first.id} for {shown(first.token.content)} "
                f"and {shown(second.token.content)}; {_REMEDY}"
            )
    ids: dict[str, int] = {}
    for each in ordered:
        if ids.setdefault(each.token.content, each.id) != each.id:
            raise UserError(
                f"{each.file}: expected one id for {shown(each.token.content)}, found {ids[each.token.content]} and "
                f"{each.id}; {_REMEDY}"
            )
    return ordered


def _check_map(
    special: Mapping[str, AddedToken],
    from_map: Mapping[str, AddedToken],
    known: set[str],
    extra_from_map: Iterable[AddedToken],
    folder: Path,
) -> None:
    """UserError if special_tokens_map.json says what tokenizer_config.json does not."""
    path, config = folder / SPECIAL_TOKENS_MAP, folder / TOKENIZER_CONFIG
    remedy = f"make it agree with {config.name}, whose added_tokens_decoder replaces it, or delete it"
    for name, token in from_map.items():
        if name in special and special[name].content != token.content:
            raise UserError(
                f"{path}: {name}: expected {shown(special[name].content)}, as in {config.name}, found "
                f"{shown(token.content)}; {remedy}"
            )
    for token in extra_from_map:
        if token.content not in known:
            raise UserError(
                f"{path}: expected the special tokens of {config.name}, found {shown(token.content)} too; {remedy}"
            )


def _check_older(older: Iterable[DeclaredToken], added: Iterable[DeclaredToken]) -> None:
    """UserError if added_tokens.json has a token or an id that added_tokens_decoder lacks."""
    ids = {declared.token.content: declared.id for declared in added}
    for each in older:
        if (stated := ids.get(each.token.content)) != each.id:
            found = "none" if stated is None else f"id {stated}"
            raise UserError(
                f"{each.file}: expected {shown(each.token.content)} with id {each.id} in {TOKENIZER_CONFIG}'s "
                f"added_tokens_decoder, too, found {found}; correct the wrong one"
            )
