"""A checkpoint's tokenizer, read from its vocabulary and settings, or refused if they do not fit together."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from bertjax.errors import UserError, reason
from bertjax.files.json_files import MIB, read_json, read_text

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""BERT's special tokens, by their names in tokenizer_config.json."""
# Some embedding tables are padded to a multiple of 8, 64 or 128 rows, for speed.
_MAX_PADDING = 128


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads a checkpoint's tokenizer: BERT's normaliser, WordPiece, and [CLS] A [SEP] or [CLS] A [SEP] B [SEP].

    It reads `vocab.txt`, with the settings and special tokens of `tokenizer_config.json` if that exists. If that does
    not say whether to lower-case, the vocabulary decides: a piece with an upper-case letter makes it cased.
    `tokenizer.json` is read only if there is no `vocab.txt`. The tokenizer neither truncates nor pads.

    Args:
      folder: a checkpoint in Hugging Face layout.

    Raises:
      UserError: there is no vocabulary; it is not UTF-8, has a duplicate entry or lacks a special token; or
        `tokenizer_config.json` is not a JSON object or has a value of the wrong type.
    """
    config_path, vocabulary_path, json_path = (
        folder / name for name in ("tokenizer_config.json", "vocab.txt", "tokenizer.json")
    )
    config = _read_config(config_path)
    special = {name: _special_token(config, name, config_path) for name in _SPECIAL}
    if vocabulary_path.is_file():
        vocabulary = _read_vocabulary(vocabulary_path)
        _check_special(special, vocabulary, vocabulary_path)
        do_lower_case = _flag(config, "do_lower_case", config_path)
        tokenizer = Tokenizer(
            WordPiece(vocabulary, unk_token=special["unk_token"], max_input_chars_per_word=100)  # Google's limit
        )
        tokenizer.normalizer = BertNormalizer(
            clean_text=True,
            handle_chinese_chars=_flag(config, "tokenize_chinese_chars", config_path) is not False,
            strip_accents=_flag(config, "strip_accents", config_path),
            lowercase=not _is_cased(vocabulary, special.values()) if do_lower_case is None else do_lower_case,
        )
        tokenizer.pre_tokenizer = BertPreTokenizer()
        sep, cls = special["sep_token"], special["cls_token"]
        tokenizer.post_processor = BertProcessing((sep, vocabulary[sep]), (cls, vocabulary[cls]))
        # Not normalised: "[MASK]" in a text is the special token, "[mask]" is not.
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special.values()])
    elif json_path.is_file():
        tokenizer = _read_tokenizer_json(json_path)
        _check_special(special, tokenizer.get_vocab(), json_path)
    else:
        raise UserError(
            f"{folder}: expected the checkpoint's vocab.txt or tokenizer.json, found neither; copy it into the folder"
        )
    return tokenizer


def tokenizer_settings(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """A complete `tokenizer_config.json` for a loaded tokenizer, with what `load_tokenizer` had to infer.

    Args:
      folder: the checkpoint.
      tokenizer: from `load_tokenizer(folder)`.
    """
    path = folder / "tokenizer_config.json"
    config = _read_config(path)
    settings: dict[str, Any] = {name: _special_token(config, name, path) for name in _SPECIAL}
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    normalizer_names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    return settings | {key: normalizer[name] for key, name in normalizer_names.items() if name in normalizer}


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Checks that a vocabulary fits a model's embedding table.

    No id may lie outside the table. Padding may make the table larger, but by fewer than 128 rows: a larger gap means
    that the vocabulary belongs to another model.

    Args:
      tokenizer: from `load_tokenizer`.
      vocab_size: number of rows of the model's word embeddings.
      folder: the checkpoint, for the error message.

    Raises:
      UserError: the sizes do not fit.
    """
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if not 0 <= vocab_size - size < _MAX_PADDING:
        raise UserError(
            f"{folder}: expected a vocabulary of {vocab_size} entries, the vocab_size of config.json, found {size}; "
            "use the vocabulary that the checkpoint was trained with"
        )


def special_token_ids(tokenizer: Tokenizer, folder: Path) -> dict[str, int]:
    """Ids of the special tokens: "pad_token", "unk_token", "cls_token", "sep_token", "mask_token".

    Args:
      tokenizer: from `load_tokenizer(folder)`.
      folder: the checkpoint.
    """
    path = folder / "tokenizer_config.json"
    config, vocabulary = _read_config(path), tokenizer.get_vocab(with_added_tokens=True)
    return {name: vocabulary[_special_token(config, name, path)] for name in _SPECIAL}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = read_json(path, "fix it, or delete it to use BERT's settings", {}, max_bytes=8 * MIB)
    except FileNotFoundError:
        return {}
    return config


def _special_token(config: Mapping[str, Any], name: str, path: Path) -> str:
    value = config.get(name)
    if isinstance(value, dict):  # a serialised AddedToken
        value = value.get("content")
    value = _SPECIAL[name] if value is None else value
    if not isinstance(value, str):
        raise UserError(f"{path}: {name}: expected a string, found {value!r}; fix it")
    return value


def _flag(config: Mapping[str, Any], name: str, path: Path) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: {name}: expected true, false or null, found {value!r}; fix it")
    return value


def _read_vocabulary(path: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    try:
        # Not splitlines(): it also breaks at separators such as U+2028, which are pieces of multilingual vocabularies.
        pieces = [line.removesuffix("\r") for line in read_text(path, 16 * MIB).split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8, found {error.reason}; get the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    while pieces and not pieces[-1]:
        pieces.pop()
    for index, piece in enumerate(pieces):
        if piece in vocabulary:
            raise UserError(
                f"{path}: line {index + 1}: expected every entry once, found {piece!r}, also on line "
                f"{vocabulary[piece] + 1}; get the file again"
            )
        vocabulary[piece] = index
    return vocabulary


def _read_tokenizer_json(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(read_text(path, 64 * MIB))
        # Files of sentence encoders enable both.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # The library does not check the ids of the post-processor, and some broken files fail only in use.
        ids = {*tokenizer.encode("a").ids, *tokenizer.encode("a", "b").ids}
        if not ids <= set(tokenizer.get_vocab().values()):
            raise ValueError("it produces ids that its vocabulary lacks")
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and its panics are BaseExceptions
        raise UserError(f"{path}: not a readable tokenizer ({reason(error)}); get it again, or vocab.txt") from None
    return tokenizer


def _check_special(special: Mapping[str, str], vocabulary: Mapping[str, int], path: Path) -> None:
    for name, token in special.items():
        if token not in vocabulary:
            raise UserError(
                f"{path}: expected the special token {token!r}, found no such entry; "
                f"set {name} in tokenizer_config.json to the vocabulary's own"
            )


def _is_cased(vocabulary: Iterable[str], special: Iterable[str]) -> bool:
    special = set(special)
    # Not isupper(): uncased vocabularies contain U+211D, an upper-case letter without a lower-case form. Bracketed
    # pieces such as [unused1] are markers, whatever their case.
    return any(
        piece.lower() != piece and piece not in special and not re.fullmatch(r"\[.+\]", piece) for piece in vocabulary
    )
