"""Masks for masked-language modelling (Devlin et al., NAACL 2019), whole words included."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bertjax.pretrained.tokenizer import special_ids

MASKED = 0.15


TO_MASK, TO_RANDOM = 0.8, 0.1


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a vocabulary.

    Attributes:
      cls, sep, mask, pad: ids.
      is_special: bool [V]: no text; never masked, never drawn.
      is_continued: bool [V]: pieces that begin with ## and belong to the word before them.
    """

    cls: int
    sep: int
    mask: int
    pad: int
    is_special: np.ndarray
    is_continued: np.ndarray


def read_vocabulary(tokenizer: Tokenizer, folder: Path) -> Vocabulary:
    """The vocabulary of a tokenizer that `load_tokenizer` made from `folder`."""
    special = special_ids(tokenizer, folder)
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    is_special, is_continued = np.zeros((2, max(pieces.values()) + 1), bool)
    is_special[list(special.values())] = True
    is_special[special["unk_token"]] = False  # text that the vocabulary cannot spell, but text
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
    """How many masked positions so many tokens have room for."""
    return math.ceil(MASKED * length)


def mask_tokens(
    ids: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator, *, most: int, whole_word: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses 15% of an example's text tokens, rounded, at least one, and hides them.

    A chosen token becomes [MASK] eight times of ten, a random token of the vocabulary's text once, and stays as it is
    once.

    Args:
      ids: int32 [L], special tokens included, no padding.
      vocabulary: tells which may be chosen.
      rng: of the draws.
      most: never exceeded.
      whole_word: whether all pieces of a word are chosen or none. A word that would exceed the 15% is passed over;
        where that leaves nothing, the shortest is chosen, unless it exceeds `most`.

    Returns:
      The input with hidden tokens, int32 [L], and the chosen positions, ascending.
    """
    candidates = np.flatnonzero(~vocabulary.is_special[ids])
    budget = min(most, max(1, round(MASKED * len(candidates))), len(candidates))
    if not whole_word:
        chosen = rng.permutation(candidates)[:budget]
    else:
        chosen = _whole_words(ids, candidates, vocabulary, rng, budget, most)
    chosen = np.sort(chosen)
    hidden = ids.copy()
    draws = rng.random(len(chosen))
    hidden[chosen[draws < TO_MASK]] = vocabulary.mask
    is_random = (draws >= TO_MASK) & (draws < TO_MASK + TO_RANDOM)
    text = np.flatnonzero(~vocabulary.is_special)
    hidden[chosen[is_random]] = rng.choice(text, is_random.sum())
    return hidden, chosen


def _whole_words(
    ids: np.ndarray,
    candidates: np.ndarray,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    budget: int,
    most: int,
) -> np.ndarray:
    is_begun = ~vocabulary.is_continued[ids[candidates]] | (np.diff(candidates, prepend=-1) > 1)
    words = np.split(candidates, np.flatnonzero(is_begun)[1:]) if len(candidates) else []
    chosen: list[np.ndarray] = []
    room = budget
    for i in rng.permutation(len(words)):
        if len(words[i]) <= room:
            chosen.append(words[i])
            room -= len(words[i])
    if not chosen:
        chosen = [word for word in sorted(words, key=len)[:1] if len(word) <= most]
    return np.concatenate([candidates[:0], *chosen])
