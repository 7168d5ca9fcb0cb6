"""A checkpoint's tokenizer, read from all of its files as Transformers reads them, or refused.

Transformers 4 takes `tokenizer.json` as it is. Transformers 5 takes only the vocabulary from it and builds the pipeline
of the tokenizer's class, unless that is PreTrainedTokenizerFast. A folder for which the two differ is refused: nobody
can know with which of them the checkpoint was trained.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from bertjax.errors import UserError, reason, shown
from bertjax.files.json_files import MIB, read_text
from bertjax.models.config import BertConfig
from bertjax.models.families import FAMILIES
from bertjax.pretrained.notes import note
from bertjax.pretrained.tokenizer.added_tokens import add_tokens, check_decoder, declared_tokens
from bertjax.pretrained.tokenizer.classes import (
    BERT,
    BERT_NORMALIZER,
    CLASSES,
    PECULIARITIES,
    BuildTokenizer,
    TokenizerClass,
    bert_normalizer,
    differing_parts,
    is_same_on_texts,
    processor,
)
from bertjax.pretrained.tokenizer.files import (
    GENERIC_CLASSES,
    SPECIAL_TOKENS_MAP,
    DeclaredToken,
    TokenizerFiles,
    read_tokenizer_files,
)
from bertjax.pretrained.tokenizer.token_types import without_token_types
from bertjax.pretrained.tokenizer.vocabulary import (
    check_is_wordpiece,
    check_same_vocabulary,
    found_instead,
    guess_is_cased,
    read_vocabulary_file,
)

_LEFT = "warning: {}: texts are truncated at their start; here they are truncated at their end"
_JAPANESE = ("word_tokenizer_type", "subword_tokenizer_type", "mecab_kwargs", "sudachi_kwargs", "jumanpp_kwargs")
# Some embedding tables are padded to a multiple of 8, 64 or 128 rows, for speed.
_MAX_PADDING = 128


class CheckpointTokenizer(NamedTuple):
    """A tokenizer and what Transformers needs to know about it.

    Attributes:
      tokenizer: neither truncates nor pads.
      special: the named special tokens in its vocabulary, such as {"cls_token": "[CLS]"}.
      extra: further special tokens.
      is_bert: whether BertTokenizer rebuilds it from its vocabulary, added tokens and `settings`.
      settings: what tokenizer_config.json must state for Transformers to give the same ids.
      has_token_types: whether Transformers passes token types to the model.
    """

    tokenizer: Tokenizer
    special: Mapping[str, str]
    extra: tuple[str, ...]
    is_bert: bool
    settings: Mapping[str, Any]
    has_token_types: bool

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of the named special tokens, such as {"cls_token": 101}."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        return {name: vocabulary[token] for name, token in self.special.items()}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads a checkpoint's tokenizer, as `transformers.AutoTokenizer` does, or refuses it.

    It reads `tokenizer.json` or `vocab.txt`, `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`
    and the tokenizer's class in `config.json`. The tokenizer neither truncates nor pads.

    If no file says whether `vocab.txt` is lower-cased, its entries decide, with a warning on stderr.

    Args:
      folder: a checkpoint in Hugging Face layout.

    Raises:
      UserError: there is no vocabulary, a file is broken, files contradict each other, an added token would get
        another id than stated, or the tokenizer's class cannot be read from its files.
    """
    return read_tokenizer(folder).tokenizer


def read_tokenizer(folder: Path) -> CheckpointTokenizer:
    """Like `load_tokenizer`, with what the files state beyond it."""
    files = read_tokenizer_files(folder)
    vocabulary_path, json_path = folder / "vocab.txt", folder / "tokenizer.json"
    vocabulary = read_vocabulary_file(vocabulary_path) if vocabulary_path.is_file() else None
    stored = _read_tokenizer_json(json_path) if json_path.is_file() else None
    if stored is None and vocabulary is None:
        raise UserError(f"{folder}: expected the checkpoint's vocab.txt or tokenizer.json, {found_instead(folder)}")
    if stored is not None and vocabulary is not None:
        check_same_vocabulary(stored, vocabulary, vocabulary_path)
    _check_other_settings(files)
    kind = _tokenizer_class(files, has_json=stored is not None)
    if kind is None or (stored is None and not kind.is_bert):
        if stored is None:
            stated = f"tokenizer_class {files.class_name}" if files.class_name else f"model_type {files.model_type}"
            raise UserError(
                f"{json_path}: expected it, as {files.class_file.name} has {stated}, found none"
                "; copy it into the folder, or save the tokenizer with Transformers"
            )
        return _read_generic(files, stored, json_path)
    if vocabulary is not None and stored is None:
        check_is_wordpiece(vocabulary, vocabulary_path)
    built = _build(files, kind, stored, vocabulary or {})
    if isinstance(built, CheckpointTokenizer):
        return built
    assert stored is not None
    if files.class_name is None:
        pipeline = "BERT's" if kind is BERT else f"{kind.name}'s"
        note(
            f"warning: {json_path}: not {pipeline} own pipeline; read as it is, as Transformers 4 reads it. For "
            "Transformers 5 set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json"
        )
        return _read_generic(files, stored, json_path)
    raise UserError(
        f"{json_path}: expected the pipeline of {kind.name}, the tokenizer_class in {files.class_file.name}, found "
        f"another {' and '.join(built)}: Transformers 4 reads the file, Transformers 5 builds the class; if the file "
        "is right, set tokenizer_class to PreTrainedTokenizerFast"
    )


def check_tokenizer_fits(tokenizer: Tokenizer, config: BertConfig, folder: Path) -> None:
    """Checks that a tokenizer's ids and token types lie within a model's tables.

    A table that is at least 128 rows longer than the vocabulary gets a warning on stderr.

    Args:
      tokenizer: from `load_tokenizer`.
      config: the model's architecture.
      folder: the checkpoint, for messages.

    Raises:
      UserError: an id or a token type lies outside its table.
    """
    size = max((i for piece, i in tokenizer.get_vocab(with_added_tokens=True).items() if piece), default=-1) + 1
    if size > config.vocab_size:
        raise UserError(
            f"{folder}: expected a vocabulary of at most {config.vocab_size} entries, the vocab_size of config.json, "
            f"found {size}; use the vocabulary that the checkpoint was trained with"
        )
    if config.vocab_size - size >= _MAX_PADDING:
        note(
            f"warning: {folder}: the embedding table has {config.vocab_size} rows, the vocabulary {size} entries; "
            "check that they belong together"
        )
    max_type = max(tokenizer.encode("a", "a").type_ids, default=0)
    # A model with a single token type uses it for both texts.
    if max_type >= config.type_vocab_size > 1:
        raise UserError(
            f"{folder}: expected token types below {config.type_vocab_size}, the type_vocab_size of config.json, found "
            f"{max_type} in the tokenizer's template; use the tokenizer that the checkpoint was trained with"
        )


def _read_tokenizer_json(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(read_text(path, 64 * MIB))
        # Files of sentence encoders enable both.
        tokenizer.no_padding()
        if (tokenizer.truncation or {}).get("direction") == "left":
            note(_LEFT.format(path))
        tokenizer.no_truncation()
        content = json.loads(tokenizer.to_str())
        if content["model"].get("dropout"):
            note(f"warning: {path}: the model's dropout of {content['model']['dropout']} is not applied")
            content["model"]["dropout"] = None
            tokenizer = Tokenizer.from_str(json.dumps(content))
        # The library does not check the ids of the post-processor, and some broken files fail only in use.
        ids = {*tokenizer.encode("a").ids, *tokenizer.encode("a", "b").ids}
        if not ids <= set(tokenizer.get_vocab().values()):
            raise ValueError("it produces ids that its vocabulary lacks")
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and its panics are BaseExceptions
        raise UserError(f"{path}: not a readable tokenizer ({reason(error)}); get it again, or vocab.txt") from None
    return tokenizer


def _check_other_settings(files: TokenizerFiles) -> None:
    """UserError for settings that only Transformers' Python tokenizers followed; a warning for the truncated side."""
    if files.flag("do_basic_tokenize") is False or files.settings.get("never_split"):
        name = "do_basic_tokenize" if files.flag("do_basic_tokenize") is False else "never_split"
        raise UserError(
            f"{files.config_path}: {name}: expected BERT's default, found {shown(files.settings[name])}, which "
            "Transformers ignores since version 5; remove it if the checkpoint was trained without it"
        )
    for name in _JAPANESE:
        if files.settings.get(name):
            raise UserError(
                f"{files.config_path}: {name}: expected none, found {shown(files.settings[name])}: a setting of "
                "BertJapaneseTokenizer, which splits words with a program of their own; use another checkpoint"
            )
    if files.settings.get("truncation_side") == "left":
        note(_LEFT.format(files.config_path))


def _tokenizer_class(files: TokenizerFiles, *, has_json: bool) -> TokenizerClass | None:
    """The class; None if tokenizer.json alone describes the tokenizer."""
    if files.class_name is None:
        family = FAMILIES.get(files.model_type or "bert")
        return BERT if family is None else CLASSES.get(family.tokenizer)
    if files.class_name in GENERIC_CLASSES:
        return None
    if files.class_name in CLASSES:
        return CLASSES[files.class_name]
    peculiarity = PECULIARITIES.get(files.class_name, "which its files alone do not describe")
    advice = "if tokenizer.json alone describes it, set tokenizer_class to PreTrainedTokenizerFast"
    raise UserError(
        f"{files.class_file}: tokenizer_class: expected {', '.join(sorted(CLASSES))} or PreTrainedTokenizerFast, found "
        f"{shown(files.class_name)}, {peculiarity}; {advice if has_json else 'use a checkpoint with one of these'}"
    )


def _read_generic(files: TokenizerFiles, stored: Tokenizer, path: Path) -> CheckpointTokenizer:
    """tokenizer.json as it is, with the added tokens that other files state."""
    content = json.loads(stored.to_str())
    adds_space = (content["pre_tokenizer"] or {}).get("add_prefix_space")
    stated = files.flag("add_prefix_space") or False
    if adds_space not in (None, stated):
        note(
            f"warning: {path}: add_prefix_space is {json.dumps(adds_space)}, in {files.config_path.name} "
            f"{json.dumps(stated)}; read as tokenizer.json says, as Transformers 5 does and Transformers 4 does not"
        )
    special = {**files.ignored, **files.special}
    add_tokens(stored, declared_tokens(files, content, path), special.values(), files.extra)
    # Transformers 5 writes the class TokenizersBackend and "backend", and passes no token types unless asked for them.
    is_from_5 = files.class_name == "TokenizersBackend" or "backend" in files.settings
    is_stated = files.class_name is None or "model_input_names" in files.settings
    if not is_from_5 and not is_stated and any(stored.encode("a", "a").type_ids):
        note(
            f"warning: {files.config_path}: the token types of pairs are read from tokenizer.json, as Transformers 4 "
            "reads them; Transformers 5 passes none unless model_input_names lists token_type_ids"
        )
    settings = {} if adds_space is None else {"add_prefix_space": adds_space}
    return _finish(
        files, stored, special, settings, is_bert=False, has_token_types=files.has_token_types(not is_from_5)
    )


def _build(
    files: TokenizerFiles, kind: TokenizerClass, stored: Tokenizer | None, vocabulary: Mapping[str, int]
) -> CheckpointTokenizer | list[str]:
    """The tokenizer that Transformers 5 builds, or the parts in which tokenizer.json has another one."""
    path = files.folder / ("vocab.txt" if stored is None else "tokenizer.json")
    content: dict[str, Any] = {"model": {"type": kind.model, "vocab": vocabulary}, "normalizer": None}
    if stored is not None:
        content = json.loads(stored.to_str())
    if content["model"]["type"] != kind.model:
        return ["model"]
    if kind.extra and not files.extra:
        extra = tuple(AddedToken(token, special=True, normalized=False) for token in kind.extra)
        files = dataclasses.replace(files, extra=extra)
    special = _special_tokens(files, kind)
    contents = {name: token.content for name, token in special.items()}
    if kind.strips_before_mask and stored is None and not files.has_decoder:
        special["mask_token"] = AddedToken(contents["mask_token"], lstrip=True, special=True, normalized=False)
    settings = {
        name: default if files.flag(name) is None else files.flag(name) for name, default in kind.settings.items()
    }
    declared = declared_tokens(files, content, path)
    has_token_types = files.has_token_types(kind.has_token_types)
    # Transformers 4 overrides parts of BERT's normaliser in tokenizer.json.
    overridden = content["normalizer"] if (content["normalizer"] or {}).get("type") == "BertNormalizer" else None
    if kind.is_bert:
        if stored is None:
            settings |= _guessed_case(files, vocabulary, contents.values())
        if overridden:
            _check_normalizer(files, overridden)
        _check_special(contents, content["model"]["vocab"], declared, path)

    def assembled(build: BuildTokenizer) -> Tokenizer:
        tokenizer = build(content, contents, settings)
        add_tokens(tokenizer, declared, special.values(), files.extra)
        tokenizer.post_processor = processor(tokenizer, *kind.template(contents))
        return tokenizer

    try:
        built = assembled(kind.build)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        if stored is not None:
            return ["model"]
        raise UserError(f"{path}: not a readable vocabulary ({reason(error)}); get it again") from None
    if stored is None:
        _warn_of_map(files)
    else:
        check_decoder(files, declared, special.values())
        if kind.is_bert and overridden:
            stored.normalizer = bert_normalizer(settings, clean_text=overridden["clean_text"])
        add_tokens(stored, declared, special.values(), files.extra)
        parts = differing_parts(stored, built, has_token_types=has_token_types)
        is_older = kind.build_older is not None and not differing_parts(
            stored, assembled(kind.build_older), has_token_types=has_token_types
        )
        if parts and not is_older and (kind.is_bert or not is_same_on_texts(stored, built)):
            return parts
        if parts:
            note(
                f"warning: {path}: {' and '.join(parts)} as in the file, as Transformers 4 reads it; Transformers 5 "
                f"builds the usual {kind.name}, which differs in rare texts"
            )
            built = stored
    return _finish(files, built, special, settings, is_bert=kind.is_rebuilt_by_bert, has_token_types=has_token_types)


def _special_tokens(files: TokenizerFiles, kind: TokenizerClass) -> dict[str, AddedToken]:
    """The named special tokens; UserError if special_tokens_map.json has another that Transformers ignores."""
    defaults = {name: AddedToken(token, special=True, normalized=False) for name, token in kind.special.items()}
    special = defaults | dict(files.special)
    for name, token in files.ignored.items():
        if name in special and special[name].content != token.content:
            raise UserError(
                f"{files.folder / SPECIAL_TOKENS_MAP}: {name}: expected {shown(special[name].content)}, which "
                f"Transformers takes beside added_tokens_decoder, found {shown(token.content)}; state {name} in "
                f"{files.config_path.name}, too"
            )
    return special


def _guessed_case(files: TokenizerFiles, vocabulary: Mapping[str, int], special: Iterable[str]) -> dict[str, bool]:
    if files.flag("do_lower_case") is not None:
        return {}
    is_cased = guess_is_cased(vocabulary, {*special, *(token.content for token in files.extra)})
    note(
        f"warning: {files.config_path}: do_lower_case is not stated; guessed {json.dumps(not is_cased)}, as vocab.txt "
        f"has {'' if is_cased else 'next to no '}pieces with upper-case letters"
    )
    return {"do_lower_case": not is_cased}


def _warn_of_map(files: TokenizerFiles) -> None:
    """A warning for added tokens that are special only according to special_tokens_map.json."""
    tokens = [each.token.content for each in files.added if each.token.content in files.special_in_map_alone]
    if tokens:
        note(
            f"warning: {files.folder / SPECIAL_TOKENS_MAP}: {', '.join(map(shown, tokens))}: matched as written, as in "
            "Transformers 4; Transformers 5 matches them in the normalised text"
        )


def _check_normalizer(files: TokenizerFiles, normalizer: Mapping[str, Any]) -> None:
    """UserError if tokenizer.json has a setting that Transformers overrides with BERT's default."""
    for key, (name, default) in BERT_NORMALIZER.items():
        if files.flag(key) is None and normalizer[name] != default:
            raise UserError(
                f"{files.config_path}: expected {key}: tokenizer.json has {json.dumps(normalizer[name])}, and "
                f"Transformers takes {json.dumps(default)} unless it is stated here; state the right one"
            )


def _check_special(
    contents: Mapping[str, str], vocabulary: Mapping[str, int], declared: Iterable[DeclaredToken], path: Path
) -> None:
    """UserError if a special token of BERT's is missing."""
    known = {*vocabulary, *(each.token.content for each in declared)}
    for name, token in contents.items():
        if name in BERT.special and token not in (vocabulary if name == "unk_token" else known):
            raise UserError(
                f"{path}: expected the special token {token!r}, found no such entry; "
                f"set {name} in tokenizer_config.json to the vocabulary's own"
            )


def _finish(
    files: TokenizerFiles,
    tokenizer: Tokenizer,
    special: Mapping[str, AddedToken],
    settings: Mapping[str, Any],
    *,
    is_bert: bool,
    has_token_types: bool,
) -> CheckpointTokenizer:
    if not has_token_types:
        tokenizer = without_token_types(tokenizer)
    if files.flag("split_special_tokens"):
        tokenizer.encode_special_tokens = True
        settings = {**settings, "split_special_tokens": True}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    named = {name: token.content for name, token in special.items() if token.content in vocabulary}
    extra = tuple(token.content for token in files.extra)
    return CheckpointTokenizer(tokenizer, named, extra, is_bert, settings, has_token_types)
