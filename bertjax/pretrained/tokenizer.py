"""A checkpoint's tokenizer, read from its vocabulary and settings."""

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
from bertjax.files import json_files
from bertjax.files.json_files import MIB, read_json, read_text

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


# Embedding tables are padded to multiples of 8, 64 or 128, for speed.
_MOST_PADDING = 128


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads a checkpoint's tokenizer: BERT's normaliser, WordPiece, and [CLS] A [SEP] or [CLS] A [SEP] B [SEP].

    `vocab.txt` is what counts, with the settings and the names of special tokens in `tokenizer_config.json`,
    if there; where that does not say whether to lower-case, the vocabulary does: a piece with an upper-case
    letter makes it cased. `tokenizer.json` is read only where there is no `vocab.txt`. The tokenizer neither
    truncates nor pads.

    Args:
      folder: of a checkpoint in Hugging Face layout.

    Raises:
      UserError: no vocabulary, or a broken one: not UTF-8, an entry twice, a special token missing; or a
        `tokenizer_config.json` that is no JSON object or has a value of the wrong type.
    """
    config_path, vocabulary_path, ready_path = (
        folder / name for name in ("tokenizer_config.json", "vocab.txt", "tokenizer.json")
    )
    config = _read_config(config_path)
    special = {name: _special_token(config, name, config_path) for name in _SPECIAL}
    if vocabulary_path.is_file():
        vocabulary = _read_vocabulary(vocabulary_path)
        _check_special(special, vocabulary, vocabulary_path)
        is_lowered = _flag(config, "do_lower_case", config_path)
        is_chinese_split = _flag(config, "tokenize_chinese_chars", config_path)
        tokenizer = Tokenizer(
            WordPiece(vocabulary, unk_token=special["unk_token"], max_input_chars_per_word=100)  # as Google's
        )
        tokenizer.normalizer = BertNormalizer(
            clean_text=True,
            handle_chinese_chars=is_chinese_split is not False,
            strip_accents=_flag(config, "strip_accents", config_path),
            lowercase=not _is_cased(vocabulary, special.values()) if is_lowered is None else is_lowered,
        )
        tokenizer.pre_tokenizer = BertPreTokenizer()
        sep, cls = special["sep_token"], special["cls_token"]
        tokenizer.post_processor = BertProcessing((sep, vocabulary[sep]), (cls, vocabulary[cls]))
        # Not normalised: a literal [MASK] in a text is the special token, [mask] is not.
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special.values()])
    elif ready_path.is_file():
        tokenizer = _read_ready(ready_path)
        _check_special(special, tokenizer.get_vocab(), ready_path)
    else:
        raise UserError(
            f"{folder}: expected the checkpoint's vocab.txt or tokenizer.json, found neither; copy it into the folder"
        )
    return tokenizer


def tokenizer_settings(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """A `tokenizer_config.json` that says outright how `load_tokenizer` read a folder, its guesses included.

    Args:
      folder: of the checkpoint.
      tokenizer: from `load_tokenizer(folder)`.
    """
    path = folder / "tokenizer_config.json"
    config = _read_config(path)
    settings: dict[str, Any] = {name: _special_token(config, name, path) for name in _SPECIAL}
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    return settings | {ours: normalizer[theirs] for ours, theirs in names.items() if theirs in normalizer}


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Checks that a vocabulary and a model's embedding table belong together.

    No id may lie outside the table. The table may be larger, as many are padded, but by fewer than 128 rows:
    a wider gap means a vocabulary of another model.

    Args:
      tokenizer: from `load_tokenizer`.
      vocab_size: rows of the model's word embeddings.
      folder: of the checkpoint, for the message.

    Raises:
      UserError: the sizes do not fit.
    """
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if not 0 <= vocab_size - size < _MOST_PADDING:
        raise UserError(
            f"{folder}: expected a vocabulary of {vocab_size} entries, the vocab_size of config.json, found one of "
            f"another size, {size}; use the vocabulary that the checkpoint was trained with"
        )


def special_ids(tokenizer: Tokenizer, folder: Path) -> dict[str, int]:
    """Ids of the special tokens: "pad_token", "unk_token", "cls_token", "sep_token", "mask_token".

    Args and errors as of `load_tokenizer`, which made the tokenizer from the folder.
    """
    path = folder / "tokenizer_config.json"
    config, vocabulary = _read_config(path), tokenizer.get_vocab(with_added_tokens=True)
    return {name: vocabulary[_special_token(config, name, path)] for name in _SPECIAL}


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "mend it, or delete it to use BERT's settings"
    try:
        config: dict[str, Any] = read_json(path, 8 * MIB, remedy)
    except FileNotFoundError:
        return {}
    json_files.check_shape(config, {}, path, remedy)
    return config


def _special_token(config: Mapping[str, Any], name: str, path: Path) -> str:
    value = config.get(name)
    if isinstance(value, dict):  # an AddedToken, written out
        value = value.get("content")
    value = _SPECIAL[name] if value is None else value
    if not isinstance(value, str):
        raise UserError(f"{path}: {name}: expected a string, found {value!r}; mend it")
    return value


def _flag(config: Mapping[str, Any], name: str, path: Path) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: {name}: expected true, false or null, found {value!r}; mend it")
    return value


def _read_vocabulary(path: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    try:
        # Not splitlines(), which also breaks at the separators that multilingual vocabularies hold as pieces.
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
                f"{path}: line {index + 1}: expected every entry once, found {piece!r} of line "
                f"{vocabulary[piece] + 1} again; get the file again"
            )
        vocabulary[piece] = index
    return vocabulary


def _read_ready(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(read_text(path, 64 * MIB))
        # Sentence encoders ship with both switched on.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # What it puts around texts it takes as told, and it may read well and fail in use.
        ids = {*tokenizer.encode("a").ids, *tokenizer.encode("a", "b").ids}
        if not ids <= set(tokenizer.get_vocab().values()):
            raise ValueError("it gives ids that its vocabulary lacks")
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library raises no narrower type than Exception, and panics beside it
        raise UserError(f"{path}: not a readable tokenizer ({reason(error)}); get it again, or vocab.txt") from None
    return tokenizer


def _check_special(special: Mapping[str, str], vocabulary: Mapping[str, int], path: Path) -> None:
    for name, token in special.items():
        if token not in vocabulary:
            raise UserError(
                f"{path}: expected the special token {token!r}, found no such entry; "
                f"name the vocabulary's own as {name} in tokenizer_config.json"
            )


def _is_cased(vocabulary: Iterable[str], special: Iterable[str]) -> bool:
    special = set(special)
    # Not isupper(): uncased vocabularies hold U+211D, an upper-case letter without a lower-case form. Bracketed
    # pieces are markers, whatever their case.
    return any(
        piece.lower() != piece and piece not in special and not re.fullmatch(r"\[.+\]", piece) for piece in vocabulary
    )
