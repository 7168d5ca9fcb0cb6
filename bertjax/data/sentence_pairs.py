"""Examples for masked-language modelling and next-sentence prediction (Devlin et al., NAACL 2019).

Every draw depends on (seed, epoch) or on (seed, epoch, index in the epoch) alone, so neither resuming nor another batch
size or device count changes an example.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from tokenizers import Tokenizer

from bertjax.data.batches import Batch, PlannedBatch, bucket_edges, plan_epoch, real_token_fraction, steps_per_epoch
from bertjax.data.documents import Document
from bertjax.data.text import special_ids
from bertjax.errors import UserError

MASKED = 0.15
TO_MASK, TO_RANDOM = 0.8, 0.1
SHORT = 0.1
EVAL_SEED, EVAL_PASSES = 0, 4
MAX_BUCKETS, LEAST_SAVED = 4, 0.05
_PLAN, _MASK = range(2)
IS_NEXT, NOT_NEXT = 0, 1

TokenDocument = list[np.ndarray]
"""A document's sentences as int32 [L], without special tokens."""


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


class Pair(NamedTuple):
    """Where an example's text stands: (document, first sentence, end) for each segment.

    Attributes:
      first: segment A.
      second: segment B: what follows A, or sentences of another document.
      label: 0 where B follows A, 1 where it does not: Hugging Face's order.
    """

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    label: int


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


def tokenize_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[TokenDocument]:
    """Tokenises documents sentence by sentence; what has no token is left out."""
    found = []
    for document in documents:
        encoded = tokenizer.encode_batch(list(document), add_special_tokens=False)
        found.append([np.array(sentence.ids, np.int32) for sentence in encoded if sentence.ids])
    return [document for document in found if document]


def plan_pairs(documents: Sequence[TokenDocument], max_length: int, seed: int, epoch: int) -> list[Pair]:
    """The pairs of an epoch, document by document.

    Sentences of a document are packed until they reach the target: max_length less three special tokens, or in one
    chunk of ten a random shorter length. A chunk is cut into A and B at a random sentence boundary. Then a fair coin
    leaves B as it is, or takes sentences of another document, about as many tokens, and B's own sentences are put back
    for the next chunk. A last sentence left alone is passed over: only random text could follow it, and its standing
    alone would give the label away.

    Args:
      documents: at least two.
      max_length: tokens of an example, special ones included.
      seed: of the run, in [0, 2**32).
      epoch: counted from 0.
    """
    rng = _rng(seed, epoch, _PLAN)
    pairs = []
    for number, document in enumerate(documents):
        sizes = [len(sentence) for sentence in document]
        begin = 0
        while len(document) - begin >= 2:
            target = max_length - 3
            if rng.random() < SHORT:
                target = int(rng.integers(2, target + 1))
            end = begin + 2
            while end < len(document) and sum(sizes[begin:end]) < target:
                end += 1
            cut = int(rng.integers(begin + 1, end))
            if rng.random() < 0.5:
                pairs.append(Pair((number, begin, cut), (number, cut, end), IS_NEXT))
                begin = end
            else:
                other = _other_text(documents, number, sum(sizes[cut:end]), rng)
                pairs.append(Pair((number, begin, cut), other, NOT_NEXT))
                begin = cut
    return pairs


def check_documents(documents: Sequence[Sequence[Any]]) -> None:
    """UserError for a split that makes no pairs: fewer than two documents, or none of two sentences."""
    if len(documents) < 2 or all(len(document) < 2 for document in documents):
        raise UserError(
            "--config.corpus: expected at least 2 documents with text in each split, one of them of 2 sentences or "
            f"more, found {len(documents)} documents; add documents, with one sentence a line"
        )


def masked_positions_of(length: int) -> int:
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


def train_batches(source: "PairBatches") -> "grain.DatasetIterator":
    """A Grain iterator over a run's batches.

    A state from `get_state()`, put into the iterator of an equal source by `set_state()`, resumes with the very next
    batch.
    """
    # As for fine-tuning: threads would only contend for the interpreter.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def eval_batches(
    documents: Sequence[TokenDocument],
    vocabulary: Vocabulary,
    *,
    max_length: int,
    batch_size: int,
    whole_word: bool = False,
) -> "PairBatches":
    """Batches for evaluation, the same at every call: four passes, as few held-out documents give few pairs.

    Args, batches and errors as of `PairBatches`.
    """
    return PairBatches(
        documents,
        vocabulary,
        max_length=max_length,
        batch_size=batch_size,
        seed=EVAL_SEED,
        epochs=EVAL_PASSES,
        whole_word=whole_word,
    )


class PairBatches:
    """The batches of a run by their place in it, as Grain wants a source: new pairs and masks in every epoch.

    Batches are of like length, as `batches.plan_epoch` makes them; at most one an epoch is filled up. A batch is a
    dictionary: `input_ids`, `token_type_ids` int32 and `attention_mask` bool [B, S];
    `masked_positions`, `masked_ids` (the tokens that stood there) int32 and `masked_valid` bool [B, P], P = ⌈0.15 S⌉,
    real ones first; `label` int32 [B], 1 where the second text does not follow the first; `index` int32 [B], the
    example's number in the run, before it is shuffled; `valid` bool [B], False in rows that only fill up.

    Attributes:
      edges: what S can be, ascending: at most MAX_BUCKETS lengths, one more only where it saves LEAST_SAVED of the
        tokens, as a step is compiled for each.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        vocabulary: Vocabulary,
        *,
        max_length: int,
        batch_size: int,
        seed: int,
        epochs: int,
        whole_word: bool = False,
    ):
        """Plans a run.

        Args:
          documents: a split.
          vocabulary: of its tokens.
          max_length: the most columns of a batch.
          batch_size: B.
          seed: of the run, in [0, 2**32).
          epochs: how often the documents come.
          whole_word: whether words are masked whole.

        Raises:
          UserError: as of `check_documents`.
        """
        check_documents(documents)
        self._documents, self._vocabulary = documents, vocabulary
        self._max_length, self._batch_size = max_length, batch_size
        self._seed, self._whole_word = seed, whole_word
        self._lengths = [self._lengths_of(self._pairs(epoch)) for epoch in range(epochs)]
        self.edges = _edges(np.concatenate(self._lengths), max_length)
        self._firsts = np.cumsum([0, *map(len, self._lengths)])
        self._ends = np.cumsum([steps_per_epoch(lengths, batch_size, self.edges) for lengths in self._lengths])
        self._planned: tuple[int, list[Pair], list[PlannedBatch]] = (-1, [], [])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, batch: int) -> Batch:
        epoch = int(np.searchsorted(self._ends, batch, side="right"))
        if self._planned[0] != epoch:
            batches = plan_epoch(self._lengths[epoch], self._batch_size, self.edges, self._seed, epoch)
            self._planned = epoch, self._pairs(epoch), batches
        _, pairs, batches = self._planned
        planned = batches[batch - int(self._ends[epoch])]  # from the epoch's end
        size, length, places = self._batch_size, planned.length, masked_positions_of(planned.length)
        arrays: Batch = {
            "input_ids": np.full((size, length), self._vocabulary.pad, np.int32),
            "token_type_ids": np.zeros((size, length), np.int32),
            "attention_mask": np.zeros((size, length), bool),
            "masked_positions": np.zeros((size, places), np.int32),
            "masked_ids": np.zeros((size, places), np.int32),
            "masked_valid": np.zeros((size, places), bool),
            "label": np.zeros(size, np.int32),
            "index": np.zeros(size, np.int32),
            "valid": np.arange(size) < len(planned.rows),
        }
        arrays["attention_mask"][:, 0] = True  # no row is masked throughout: its softmax would be 0/0
        for row, place in enumerate(planned.rows):
            self._fill(arrays, row, pairs[place], epoch, int(place))
        return arrays

    def real_token_fraction(self) -> float:
        """Share of the first epoch's tokens that are no padding."""
        return real_token_fraction(self._lengths[0], self._batch_size, self.edges)

    def _pairs(self, epoch: int) -> list[Pair]:
        return plan_pairs(self._documents, self._max_length, self._seed, epoch)

    def _lengths_of(self, pairs: Sequence[Pair]) -> np.ndarray:
        texts = ([s for n, begin, end in pair[:2] for s in self._documents[n][begin:end]] for pair in pairs)
        return np.array([min(3 + sum(map(len, text)), self._max_length) for text in texts], np.int32)

    def _texts(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        first, second = (
            np.concatenate(self._documents[document][begin:end]) for document, begin, end in (pair.first, pair.second)
        )
        return first, second

    def _fill(self, arrays: Batch, row: int, pair: Pair, epoch: int, place: int) -> None:
        vocabulary = self._vocabulary
        first, second = _cut(*self._texts(pair), self._max_length - 3)
        sep = [vocabulary.sep]
        ids = np.concatenate([[vocabulary.cls], first, sep, second, sep]).astype(np.int32)
        rng = _rng(self._seed, epoch, _MASK, place)
        most = masked_positions_of(len(ids))  # not the batch's, so that a larger one changes nothing
        hidden, chosen = mask_tokens(ids, vocabulary, rng, most=most, whole_word=self._whole_word)
        arrays["input_ids"][row, : len(ids)] = hidden
        arrays["token_type_ids"][row, len(first) + 2 : len(ids)] = 1
        arrays["attention_mask"][row, : len(ids)] = True
        arrays["masked_positions"][row, : len(chosen)] = chosen
        arrays["masked_ids"][row, : len(chosen)] = ids[chosen]
        arrays["masked_valid"][row, : len(chosen)] = True
        arrays["label"][row] = pair.label
        arrays["index"][row] = self._firsts[epoch] + place


def _edges(lengths: np.ndarray, max_length: int) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    padded = np.inf
    for count in range(1, MAX_BUCKETS + 1):
        edges = tuple(min(edge, max_length) for edge in bucket_edges(lengths, max_buckets=count))
        tokens = np.array(edges)[np.searchsorted(edges, lengths)].sum()
        if tokens > (1 - LEAST_SAVED) * padded:
            break
        found, padded = edges, tokens
    return found


def _rng(seed: int, epoch: int, purpose: int, index: int = 0) -> np.random.Generator:
    return np.random.default_rng((seed, epoch, purpose, index))


def _other_text(
    documents: Sequence[TokenDocument], number: int, size: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Sentences of another document until they have `size` tokens: B's length must not tell the label."""
    other = int(rng.integers(len(documents) - 1))
    other += other >= number
    begin = end = int(rng.integers(len(documents[other])))
    found = 0
    while end < len(documents[other]) and found < size:
        found += len(documents[other][end])
        end += 1
    return other, begin, end


def _cut(first: np.ndarray, second: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the longer text until both have `most` tokens; what meets in the middle stays."""
    half = most // 2
    longest = max(most - half, most - len(second))
    first = first[max(0, len(first) - longest) :]
    return first, second[: most - len(first)]


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
