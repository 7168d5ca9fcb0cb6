"""Properties of masking for any text: how many tokens are chosen, which ones, and what replaces them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.batching import resumable_iterator
from bertjax.data.masking import Vocabulary, mask_tokens, max_masked_positions
from bertjax.data.mlm import MlmBatches
from bertjax.data.sentence_pairs import SentencePairs

# Half of the vocabulary is special, so that random tokens drawn from all of it would be noticed.
PAD, CLS, SEP, MASK, FIRST, SIZE = 0, 2, 3, 4, 200, 400
CONTINUED = range(300, SIZE)
SEEDS = st.integers(0, 2**32 - 1)
# The text may hold special tokens too, such as a literal [MASK].
TOKENS = st.one_of(st.integers(FIRST, SIZE - 1), st.sampled_from([CLS, SEP, MASK]), st.sampled_from(CONTINUED))
IDS = st.lists(TOKENS, max_size=60).map(lambda text: np.array([CLS, *text, SEP], np.int32))


def make_vocabulary(size=SIZE, continued=CONTINUED):
    is_special, is_continued = np.zeros((2, size), bool)
    is_special[:FIRST] = True
    is_continued[list(continued)] = True
    return Vocabulary(CLS, SEP, MASK, PAD, is_special, is_continued)


VOCABULARY = make_vocabulary()


def words_of(ids):
    """Positions of each word: a piece belongs to the text just before it; special tokens belong to no word."""
    words, is_open = [], False
    for position, token in enumerate(ids):
        if token < FIRST:
            is_open = False
        elif is_open and token in CONTINUED:
            words[-1].append(position)
        else:
            words.append([position])
            is_open = True
    return words


@given(ids=IDS, seed=SEEDS, max_masked=st.integers(1, 12), whole_word=st.booleans())
@settings(max_examples=300)
def test_what_may_be_masked(ids, seed, max_masked, whole_word):
    before = ids.copy()
    hidden, chosen = mask_tokens(
        ids, VOCABULARY, np.random.default_rng(seed), max_masked=max_masked, whole_word=whole_word
    )
    assert (ids == before).all()
    assert hidden.dtype == np.int32
    assert (np.diff(chosen) > 0).all()
    assert (ids[chosen] >= FIRST).all()
    assert (np.delete(hidden, chosen) == np.delete(ids, chosen)).all()
    assert all(token == MASK or token >= FIRST for token in hidden[chosen])
    text = int((ids >= FIRST).sum())
    budget = min(max_masked, max(1, round(0.15 * text)), text)
    if not whole_word:
        assert len(chosen) == budget
        return
    words, found = words_of(ids), set(chosen.tolist())
    masked = [word for word in words if found & set(word)]
    assert all(found >= set(word) for word in masked)
    if len(chosen) > budget:
        assert [len(word) for word in masked] == [min(map(len, words))]
        assert len(chosen) <= max_masked
    elif len(chosen) < budget:  # no other word fits
        rest = [len(word) for word in words if word not in masked]
        assert all(length > (budget - len(chosen) if masked else max_masked) for length in rest)


@given(seed=SEEDS, whole_word=st.booleans())
@settings(max_examples=20)
def test_the_rates(seed, whole_word):
    # Large, so that a random token is hardly ever the original one.
    vocabulary = make_vocabulary(size=1_000_000)
    rng = np.random.default_rng(seed)
    ids = np.array([CLS, *rng.integers(FIRST, SIZE, 20_000), SEP], np.int32)
    hidden, chosen = mask_tokens(ids, vocabulary, rng, max_masked=len(ids), whole_word=whole_word)
    total = len(chosen)
    assert total == 3000 if not whole_word else 2990 < total <= 3000
    is_mask, is_kept = hidden[chosen] == MASK, hidden[chosen] == ids[chosen]
    for share, found in ((0.8, is_mask), (0.1, is_kept), (0.1, ~is_mask & ~is_kept)):
        assert found.sum() == pytest.approx(share * total, abs=5 * np.sqrt(total * share * (1 - share)))
    # Words in the first half of the text are as likely as words in the second.
    assert (chosen < 10_001).sum() == pytest.approx(total / 2, abs=5 * np.sqrt(total / 4) * 3)


DOCUMENTS = st.lists(
    st.lists(st.lists(st.integers(FIRST, SIZE - 1), min_size=1, max_size=9), min_size=2, max_size=5),
    min_size=2,
    max_size=5,
).map(lambda documents: [[np.array(sentence, np.int32) for sentence in document] for document in documents])


@given(
    documents=DOCUMENTS,
    max_length=st.integers(8, 24),
    batch_size=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=SEEDS,
    whole_word=st.booleans(),
    cut=st.floats(0, 1),
)
@settings(max_examples=60)
def test_batches(documents, max_length, batch_size, epochs, seed, whole_word, cut):
    def batches():
        planner = SentencePairs(documents, VOCABULARY, max_length)
        options = {"batch_size": batch_size, "epochs": epochs, "seed": seed, "whole_word": whole_word}
        return resumable_iterator(MlmBatches(planner, VOCABULARY, **options))

    texts = {tuple(np.concatenate(document).tolist()) for document in documents}
    whole = list(batches())
    for batch in whole:
        width = batch["input_ids"].shape[1]
        assert width <= max_length
        assert batch["masked_positions"].shape == (batch_size, max_masked_positions(width))
        for row in range(batch_size):
            real, masked = batch["attention_mask"][row], batch["masked_valid"][row]
            ids = batch["input_ids"][row].copy()
            if not batch["valid"][row]:
                assert (ids == PAD).all()
                assert real.sum() == 1
                assert not masked.any()
                continue
            positions = batch["masked_positions"][row][masked]
            assert real[positions].all()
            assert (ids[~real] == PAD).all()
            # With the original tokens restored, both segments are text of a document.
            ids[positions] = batch["masked_ids"][row][masked]
            ids = ids[real].tolist()
            first, last = (i for i, token in enumerate(ids) if token == SEP)
            assert ids[0] == CLS
            assert last == len(ids) - 1
            for segment in (ids[1:first], ids[first + 1 : last]):
                assert segment
                assert any(is_within(segment, text) for text in texts)
    indices = sorted(int(i) for b in whole for i in b["index"][b["valid"]])
    assert indices == list(range(sum(b["valid"].sum() for b in whole)))

    begun, taken = batches(), round(cut * len(whole))
    for _ in range(taken):
        next(begun)
    resumed = batches()
    resumed.set_state(json.loads(json.dumps(begun.get_state())))
    for batch, expected in zip(resumed, whole[taken:], strict=True):
        assert batch.keys() == expected.keys()
        assert all(np.array_equal(batch[name], expected[name]) for name in batch)


def is_within(segment, text):
    return any(text[i : i + len(segment)] == tuple(segment) for i in range(len(text) - len(segment) + 1))
