"""Adds tokens to a tokenizer as Transformers does, if every file that states a token agrees on it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from bertjax.errors import UserError, shown
from bertjax.pretrained.tokenizer.files import FLAGS, DeclaredToken, TokenizerFiles, check_other_names


def declared_tokens(files: TokenizerFiles, content: Mapping[str, Any], path: Path) -> list[DeclaredToken]:
    """The added tokens of all files in order of id; UserError if two files state another id or other flags."""
    in_json = [
        DeclaredToken(AddedToken(**{name: value for name, value in token.items() if name != "id"}), token["id"], path)
        for token in content.get("added_tokens", ())
    ]
    by_content = {each.token.content: each for each in in_json}
    others = []
    for each in files.added:
        same = by_content.get(each.token.content)
        if same is None:
            others.append(each)
        elif same.id != each.id or (files.has_decoder and _flags(same.token) != _flags(each.token)):
            raise UserError(
                f"{each.file}: expected {shown(each.token.content)} as in tokenizer.json, with id {same.id} and "
                f"{_flags(same.token)}, found id {each.id} and {_flags(each.token)}; correct the wrong one"
            )
    declared = sorted([*in_json, *others], key=lambda each: each.id)
    check_other_names(files, declared)
    return declared


def _flags(token: AddedToken) -> dict[str, bool]:
    return {name: getattr(token, name) for name in FLAGS}


def check_decoder(files: TokenizerFiles, declared: Iterable[DeclaredToken], special: Iterable[AddedToken]) -> None:
    """UserError if Transformers 5 would drop an added token of tokenizer.json."""
    known = {token.content for token in (*(each.token for each in files.added), *special, *files.extra)}
    for each in declared:
        if files.has_decoder and each.token.content not in known:
            raise UserError(
                f"{files.config_path}: added_tokens_decoder: expected the added tokens of tokenizer.json, found no "
                f"{shown(each.token.content)}; add it, or remove added_tokens_decoder"
            )


def add_tokens(
    tokenizer: Tokenizer,
    declared: Iterable[DeclaredToken],
    special: Iterable[AddedToken],
    extra: Iterable[AddedToken],
) -> None:
    """Adds tokens as Transformers does; UserError if one gets another id than a file states."""
    declared = list(declared)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    new: dict[str, AddedToken] = {}
    for token in (*(each.token for each in declared), *special, *extra):
        if token.content not in known:
            new.setdefault(token.content, token)
    tokenizer.add_tokens(list(new.values()))
    for each in declared:
        if (found := tokenizer.token_to_id(each.token.content)) != each.id:
            raise UserError(
                f"{each.file}: expected {shown(each.token.content)} to have id {each.id}, found {found}, as the "
                f"vocabulary has {tokenizer.get_vocab_size(with_added_tokens=False)} entries; get all files of the "
                "tokenizer again"
            )
