"""`vocab.txt`: one WordPiece per line, its id the line's number."""

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from tokenizers import Tokenizer

from bertjax.errors import UserError, shown
from bertjax.files.json_files import MIB, read_text

_MIN_CASED_SHARE = 0.05
"""Of the pieces with letters that have two cases. Uncased vocabularies have few by mistake, cased ones a fifth."""
_OTHER_VOCABULARIES = ("sentencepiece.bpe.model", "spm.model", "spiece.model", "tokenizer.model", "vocab.json")
_MARKER = re.compile(r"\[.+\]|<.+>")
_OTHER_CONTINUATIONS = {"▁": "SentencePiece", "Ġ": "byte-level BPE"}
"""Marks at the start of a word in other kinds of vocabulary."""


def read_vocabulary_file(path: Path) -> dict[str, int]:
    """Reads `vocab.txt`; UserError if it cannot be read, is not UTF-8 or has a duplicate entry."""
    vocabulary: dict[str, int] = {}
    try:
        # Not splitlines(): it also breaks at separators such as U+2028, which are pieces of multilingual vocabularies.
        pieces = [line.removesuffix("\r") for line in read_text(path, 16 * MIB).split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8, found {error.reason}; get the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if pieces and pieces[0].startswith("\ufeff"):
        raise UserError(f"{path}: expected UTF-8 without a byte order mark, found one; save the file without it")
    has_blank_end = pieces[-2:] == ["", ""]
    while pieces and not pieces[-1]:
        pieces.pop()
    for index, piece in enumerate(pieces):
        if piece in vocabulary:
            raise UserError(
                f"{path}: line {index + 1}: expected every entry once, found {piece!r}, also on line "
                f"{vocabulary[piece] + 1}; get the file again"
            )
        vocabulary[piece] = index
    if has_blank_end and vocabulary:  # Transformers counts blank lines, once, before it adds tokens
        vocabulary[""] = len(vocabulary)
    return vocabulary


def check_is_wordpiece(vocabulary: Collection[str], path: Path) -> None:
    """UserError if the pieces are another kind's: more words begin with its mark than pieces with "##"."""
    continued = sum(piece.startswith("##") for piece in vocabulary)
    for mark, kind in _OTHER_CONTINUATIONS.items():
        marked = [piece for piece in vocabulary if piece.startswith(mark) and len(piece) > 1]
        if len(marked) > continued:
            raise UserError(
                f"{path}: expected WordPieces, which continue a word with ##, found {len(marked)} entries of {kind}, "
                f"such as {shown(marked[0])}; use a checkpoint with a tokenizer.json"
            )


def guess_is_cased(vocabulary: Mapping[str, int], special: Collection[str]) -> bool:
    """Whether at least a twentieth of the pieces with cased letters has an upper-case one.

    Special tokens and markers in brackets, such as [unused1] or <S>, do not count.
    """
    pieces = [piece for piece in vocabulary if piece not in special and not _MARKER.fullmatch(piece)]
    # Not isupper(): uncased vocabularies contain U+211D, an upper-case letter without a lower-case form.
    cased = sum(piece.lower() != piece for piece in pieces)
    letters = sum(piece.lower() != piece.upper() for piece in pieces)
    return cased > 0 and cased >= _MIN_CASED_SHARE * letters


def check_same_vocabulary(stored: Tokenizer, vocabulary: Mapping[str, int], path: Path) -> None:
    """UserError if `vocab.txt`, read from `path`, has other entries than tokenizer.json."""
    if vocabulary in (stored.get_vocab(with_added_tokens=False), stored.get_vocab(with_added_tokens=True)):
        return
    both = stored.get_vocab(with_added_tokens=True)
    piece = next((piece for piece, index in vocabulary.items() if both.get(piece) != index), None)
    where = f"line {len(vocabulary) + 1}" if piece is None else f"line {vocabulary[piece] + 1}"
    raise UserError(
        f"{path}: {where}: expected the vocabulary of tokenizer.json, found "
        f"{'the end' if piece is None else shown(piece)}; delete the wrong one of the two files"
    )


def found_instead(folder: Path) -> str:
    """The end of the line about a folder without a vocabulary that is read."""
    found = next((name for name in _OTHER_VOCABULARIES if (folder / name).is_file()), None)
    if found is None:
        return "found neither; copy it into the folder"
    command = "import sys; from transformers import AutoTokenizer as T; f = sys.argv[1]; "
    command += "T.from_pretrained(f).save_pretrained(f)"
    # Transformers 5 leaves out the normaliser in DeBERTa's file.
    needs = " pip install 'transformers<5' sentencepiece protobuf, then" if found == "spm.model" else ""
    return f"found {found}; write tokenizer.json:{needs} {shlex.join(['python', '-c', command, str(folder)])}"
