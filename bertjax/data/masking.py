"""Masks for masked-language modelling (Devlin et al., NAACL 2019), by token or by whole word."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from tokenizers.models import WordPiece

from bertjax.errors import UserError
from bertjax.pretrained.tokenizer import CheckpointTokenizer

MASK_RATE = 0.15
"""Share of a text's tokens that are chosen for prediction."""
REPLACED_BY_MASK, REPLACED_BY_RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become [MASK] or a random token; the others stay as they are."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know about a vocabulary of V tokens.

    Attributes:
      cls, sep, mask, pad: ids of the special tokens.
      is_special: bool [V]; special tokens, added ones too, are not text: never masked, never drawn as a random token.
      is_continued: bool [V]; pieces that begin with ## and belong to the word before them.
    """

    cls: int
    sep: int
    mask: int
    pad: int
    is_special: np.ndarray
    is_continued: np.ndarray


def read_vocabulary(read: CheckpointTokenizer, folder: Path, *, whole_word: bool, has_pairs: bool) -> Vocabulary:
    """The vocabulary of a tokenizer.

    Args:
      read: from `read_tokenizer(folder)`.
      folder: the checkpoint, for the error message.
      whole_word: whether words must be known; pieces of other models than WordPiece do not mark them alike.
      has_pairs: whether examples are pairs, [CLS] A [SEP] B [SEP], or texts, [CLS] A [SEP].

    Raises:
      UserError: the tokenizer lacks a special token, or encodes such an example in another way.
    """
    tokenizer, special = read.tokenizer, read.special_ids
    if missing := {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"} - special.keys():
        raise UserError(
            f"{folder}: pre-training needs {', '.join(sorted(missing))}, which the tokenizer lacks; name it in "
            "tokenizer_config.json, or use another checkpoint"
        )
    cls, sep, text = special["cls_token"], special["sep_token"], tokenizer.encode("a", add_special_tokens=False).ids
    if has_pairs and tokenizer.encode("a", "a").ids != [cls, *text, sep, *text, sep]:
        raise UserError(
            f"{folder}: pre-training needs a tokenizer that encodes a pair as [CLS] A [SEP] B [SEP], found another "
            "template; use a checkpoint with BERT's"
        )
    if not has_pairs and tokenizer.encode("a").ids != [cls, *text, sep]:
        raise UserError(
            f"{folder}: pre-training needs a tokenizer that encodes a text as cls_token A sep_token, found another "
            "template; use a checkpoint with that one"
        )
    if whole_word and not isinstance(tokenizer.model, WordPiece):
        raise UserError(
            f"{folder}: --config.whole_word needs a WordPiece tokenizer, found {type(tokenizer.model).__name__}; set "
            "--config.whole_word=false"
        )
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    is_special, is_continued = np.zeros((2, max(pieces.values()) + 1), bool)
    added = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    is_special[[*added, *special.values()]] = True
    is_special[special["unk_token"]] = False  # [UNK] stands for text that the vocabulary cannot spell
    is_continued[[i for piece, i in pieces.items() if piece.startswith("##")]] = True
    return Vocabulary(
        cls=special["cls_token"],
        sep=special["sep_token"],
        mask=special["mask_token"],
        pad=special["pad_token"],
        is_special=is_special,
        is_continued=is_continued,
    )


def max_masked_positions(length: int) -> int:
    """Maximum number of masked positions in an example of `length` tokens."""
    return math.ceil(MASK_RATE * length)


def mask_tokens(
    ids: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator, *, max_masked: int, whole_word: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses 15% of an example's text tokens, rounded and at least one, and hides them.

    A chosen token becomes [MASK] with probability 0.8, a random text token of the vocabulary with 0.1, and stays as it
    is with 0.1.

    Args:
      ids: int32 [L], with special tokens, without padding.
      vocabulary: the tokens' vocabulary.
      rng: source of the random draws.
      max_masked: maximum number of chosen tokens.
      whole_word: choose all pieces of a word or none. A word that would exceed the 15% is skipped. If no word fits,
        the shortest is chosen, provided it has at most `max_masked` tokens.

    Returns:
      The ids with hidden tokens, int32 [L], and the chosen positions, ascending.
    """
    candidates = np.flatnonzero(~vocabulary.is_special[ids])
    budget = min(max_masked, max(1, round(MASK_RATE * len(candidates))), len(candidates))
    if whole_word:
        chosen = _choose_words(ids, candidates, vocabulary, rng, budget, max_masked)
    else:
        chosen = rng.permutation(candidates)[:budget]
    chosen = np.sort(chosen)
    hidden = ids.copy()
    draws = rng.random(len(chosen))
    hidden[chosen[draws < REPLACED_BY_MASK]] = vocabulary.mask
    is_random = (draws >= REPLACED_BY_MASK) & (draws < REPLACED_BY_MASK + REPLACED_BY_RANDOM)
    text_ids = np.flatnonzero(~vocabulary.is_special)
    hidden[chosen[is_random]] = rng.choice(text_ids, is_random.sum())
    return hidden, chosen


def _choose_words(
    ids: np.ndarray,
    candidates: np.ndarray,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    budget: int,
    max_masked: int,
) -> np.ndarray:
    """Positions of random whole words, as many as fit into `budget` tokens."""
    starts_word = ~vocabulary.is_continued[ids[candidates]] | (np.diff(candidates, prepend=-1) > 1)
    words = np.split(candidates, np.flatnonzero(starts_word)[1:]) if len(candidates) else []
    chosen: list[np.ndarray] = []
    room = budget
    for i in rng.permutation(len(words)):
        if len(words[i]) <= room:
            chosen.append(words[i])
            room -= len(words[i])
    if not chosen:
        chosen = [word for word in sorted(words, key=len)[:1] if len(word) <= max_masked]
    return np.concatenate([candidates[:0], *chosen])
