"""Full sentences: every token once an epoch, examples as full as sentences allow, a separator between documents."""

import itertools
import json

import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.batching import resumable_iterator
from bertjax.data.full_sentences import FullSentences, Run, pack_sentences
from bertjax.data.masking import Vocabulary
from bertjax.data.mlm import MlmBatches, eval_mlm_batches
from bertjax.data.pretraining_examples import tokenize_documents
from bertjax.data.sentence_pairs import SentencePairs
from bertjax.errors import UserError
from bertjax.pretrained.tokenizer import read_tokenizer

PAD, CLS, SEP, MASK, FIRST, SIZE = 1, 0, 2, 4, 10, 60_000
SEEDS = st.integers(0, 2**32 - 1)


def make_vocabulary():
    is_special, is_continued = np.zeros((2, SIZE), bool)
    is_special[:FIRST] = True
    return Vocabulary(CLS, SEP, MASK, PAD, is_special, is_continued)


VOCABULARY = make_vocabulary()


def numbered(sizes):
    """Documents with sentences of these sizes, whose tokens are 10, 11, 12, ... throughout."""
    numbers = itertools.count(FIRST)
    return [[np.array([next(numbers) for _ in range(size)], np.int32) for size in document] for document in sizes]


SIZES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=6)
RNG = np.random.default_rng(0)
DOCUMENTS = numbered([RNG.integers(1, 12, RNG.integers(1, 9)).tolist() for _ in range(40)])


def full_batches(documents=DOCUMENTS, max_length=32, **options):
    options = {"batch_size": 8, "seed": 0, "epochs": 1} | options
    return MlmBatches(FullSentences(documents, VOCABULARY, max_length), VOCABULARY, **options)


def originals(batches):
    """The examples in the order of their index, unmasked."""
    found = {}
    for batch in batches:
        for i in np.flatnonzero(batch["valid"]):
            ids, masked = batch["input_ids"][i].copy(), batch["masked_valid"][i]
            ids[batch["masked_positions"][i][masked]] = batch["masked_ids"][i][masked]
            found[int(batch["index"][i])] = ids[batch["attention_mask"][i]].tolist()
    assert sorted(found) == list(range(len(found)))
    return [found[i] for i in range(len(found))]


@given(sizes=SIZES, max_length=st.integers(8, 24), seed=SEEDS)
@settings(max_examples=150)
def test_an_epoch(sizes, max_length, seed):
    documents = numbered(sizes)
    text = {tuple(np.concatenate(document).tolist()) for document in documents}
    starts = {int(document[0][0]) for document in documents}
    # Where sentences begin: the parts of a sentence that is too long count as sentences.
    begins = {int(t) for document in documents for sentence in document for t in sentence[:: max_length - 2]}
    examples = originals(full_batches(documents, max_length, seed=seed, batch_size=3))
    stream = []
    for ids in examples:
        assert len(ids) <= max_length
        assert (ids[0], ids[-1]) == (CLS, SEP)
        for before, token, after in zip(ids, ids[1:], ids[2:], strict=False):
            if token == SEP:  # between two documents and nowhere else
                assert before >= FIRST
                assert after in starts
            elif after in starts:
                assert token == CLS or after == SEP
        assert ids[1] in begins
        stream.append([token for token in ids if token >= FIRST])
    # Each document whole and in order, in some order of the documents.
    whole = [token for tokens in stream for token in tokens]
    cuts = [i for i, token in enumerate(whole) if token in starts]
    assert cuts[0] == 0
    assert sorted(tuple(whole[a:b]) for a, b in itertools.pairwise([*cuts, len(whole)])) == sorted(text)
    # As full as possible: the next sentence would not have fitted.
    for ids, following in itertools.pairwise(zip(examples, stream, strict=True)):
        tokens = following[1] + [FIRST - 1]
        end = next((i for i in range(1, len(tokens)) if tokens[i] in begins), len(tokens) - 1)
        assert len(ids[0]) + end + (tokens[0] in starts) > max_length


def test_by_hand():
    sizes = [[3, 2], [1], [5, 5, 4]]
    packed = pack_sentences(sizes, [0, 1, 2], 8)
    # 3 + 2, a separator and 1 make 7; a separator and 5 more would make 13.
    assert packed == [[Run(0, 0, 2), Run(1, 0, 1)], [Run(2, 0, 1)], [Run(2, 1, 2)], [Run(2, 2, 3)]]
    # 5 in a new example, then a separator and 2 fill it to the last token.
    assert pack_sentences([[5], [2], [1]], [0, 1, 2], 8) == [[Run(0, 0, 1), Run(1, 0, 1)], [Run(2, 0, 1)]]
    examples = FullSentences(numbered([[2], [9]]), VOCABULARY, 8).plan(0, 0)
    found = [examples.build(i) for i in range(len(examples.lengths))]
    assert examples.lengths.tolist() == [len(example.input_ids) for example in found]
    assert {tuple(example.input_ids.tolist()) for example in found} in (
        {(CLS, 10, 11, SEP), (CLS, 12, 13, 14, 15, 16, 17, SEP), (CLS, 18, 19, 20, SEP)},
        {(CLS, 12, 13, 14, 15, 16, 17, SEP), (CLS, 18, 19, 20, SEP, 10, 11, SEP)},
    )
    assert all(example.label is None for example in found)
    assert not any(example.token_type_ids.any() for example in found)
    assert {example.input_ids.dtype.name for example in found} == {"int32"}


def test_a_batch_has_no_label():
    pairs = MlmBatches(SentencePairs(DOCUMENTS, VOCABULARY, 32), VOCABULARY, batch_size=8, seed=0, epochs=1)
    batch = full_batches()[0]
    assert batch.keys() == pairs[0].keys() - {"label"}
    assert (batch["input_ids"][~batch["attention_mask"]] == PAD).all()
    assert {name: x.dtype for name, x in batch.items()} == {name: pairs[0][name].dtype for name in batch}


def test_masks_of_full_sentences():
    counts = dict.fromkeys(("mask", "random", "kept"), 0)
    for batch in full_batches(epochs=60):
        for i in np.flatnonzero(batch["valid"]):
            positions = batch["masked_positions"][i][batch["masked_valid"][i]]
            tokens = batch["masked_ids"][i][batch["masked_valid"][i]]
            assert (tokens >= FIRST).all()
            specials = np.isin(batch["input_ids"][i], (CLS, SEP)) & batch["attention_mask"][i]
            assert len(positions) == max(1, round(0.15 * (batch["attention_mask"][i].sum() - specials.sum())))
            for position, token in zip(positions, tokens, strict=True):
                found = batch["input_ids"][i][position]
                counts["mask" if found == MASK else "kept" if found == token else "random"] += 1
    total = sum(counts.values())
    assert total > 5_000
    for name, share in {"mask": 0.8, "random": 0.1, "kept": 0.1}.items():
        assert abs(counts[name] / total - share) < 5 * np.sqrt(share * (1 - share) / total)


def test_seeds_and_epochs_order_documents_anew():
    planner = FullSentences(DOCUMENTS, VOCABULARY, 32)

    def texts(seed, epoch):
        examples = planner.plan(seed, epoch)
        return tuple(tuple(examples.build(i).input_ids.tolist()) for i in range(len(examples.lengths)))

    found = [texts(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(found)) == 4
    assert texts(1, 1) == found[-1]


def test_the_batch_size_changes_no_example():
    def masked(size):
        rows = {}
        for batch in full_batches(epochs=2, batch_size=size):
            for i in np.flatnonzero(batch["valid"]):
                rows[int(batch["index"][i])] = batch["input_ids"][i][batch["attention_mask"][i]].tolist()
        return rows

    assert masked(5) == masked(16)


@given(sizes=SIZES, seed=SEEDS, epochs=st.integers(1, 3), cut=st.floats(0, 1))
@settings(max_examples=30)
def test_a_state_resumes_exactly(sizes, seed, epochs, cut):
    def batches():
        return resumable_iterator(full_batches(numbered(sizes), 12, seed=seed, epochs=epochs, batch_size=2))

    whole, begun = list(batches()), batches()
    taken = round(cut * len(whole))
    for _ in range(taken):
        next(begun)
    resumed = batches()
    resumed.set_state(json.loads(json.dumps(begun.get_state())))
    for batch, expected in zip(resumed, whole[taken:], strict=True):
        assert batch.keys() == expected.keys()
        assert all(np.array_equal(batch[name], expected[name]) for name in batch)


def test_evaluation_passes_four_times_and_is_the_same_every_time():
    planner = FullSentences(DOCUMENTS, VOCABULARY, 32)
    first, second = (originals(eval_mlm_batches(planner, VOCABULARY, batch_size=8)) for _ in range(2))
    assert first == second
    tokens = [token for ids in first for token in ids if token >= FIRST]
    assert sorted(tokens) == sorted(4 * [int(t) for document in DOCUMENTS for s in document for t in s])


def test_one_document_is_enough_and_none_is_refused():
    assert originals(full_batches(numbered([[3]]))) == [[CLS, 10, 11, 12, SEP]]
    with pytest.raises(UserError, match=r"--config.corpus: expected text in each split, found none"):
        FullSentences([], VOCABULARY, 32)


@pytest.mark.parametrize("family", zoo.FAMILY_TOKENIZERS)
def test_a_document_reads_as_its_sentences_joined_by_spaces(tmp_path, family):
    zoo.family_tokenizer(tmp_path, family, is_stated=True)
    tokenizer = read_tokenizer(tmp_path).tokenizer
    document = ("the film was superb.", "the film", "A dull movie, wasn't it?")
    (found,) = tokenize_documents([document], tokenizer)
    assert len(found) == 3
    expected = tokenizer.encode(" ".join(document), add_special_tokens=False).ids
    assert np.concatenate(found).tolist() == expected
