"""Masking at the stated rates, pairs that match their labels, and draws that depend on (seed, epoch, index)."""

import itertools
import json

import numpy as np
import pytest

from bertjax.data.batching import resumable_iterator
from bertjax.data.masking import Vocabulary, max_masked_positions
from bertjax.data.mlm import EVAL_SEED, MlmBatches, _bucket_boundaries, eval_mlm_batches
from bertjax.data.pretraining_examples import tokenize_documents
from bertjax.data.sentence_pairs import SentencePairs, _truncate_pair, plan_pairs
from bertjax.errors import UserError
from bertjax.pretrained.tokenizer import load_tokenizer

PAD, CLS, SEP, MASK, FIRST = 0, 2, 3, 4, 10
SIZE = 60_000
S = 32


def make_vocabulary(continued=()):
    is_special, is_continued = np.zeros((2, SIZE), bool)
    is_special[:FIRST] = True
    is_continued[list(continued)] = True
    return Vocabulary(CLS, SEP, MASK, PAD, is_special, is_continued)


VOCABULARY = make_vocabulary()


def make_documents():
    """Documents in which the tokens are 10, 11, 12, ... throughout, so a token tells its document and position."""
    rng = np.random.default_rng(0)
    numbers = itertools.count(FIRST)
    return [
        [np.array([next(numbers) for _ in range(rng.integers(1, 12))], np.int32) for _ in range(rng.integers(1, 9))]
        for _ in range(40)
    ]


DOCUMENTS = make_documents()
HOME = {int(token): i for i, document in enumerate(DOCUMENTS) for sentence in document for token in sentence}


def pair_batches(documents=DOCUMENTS, vocabulary=VOCABULARY, *, max_length=S, **options):
    options = {"batch_size": 8, "seed": 0, "epochs": 1} | options
    return MlmBatches(SentencePairs(documents, vocabulary, max_length), vocabulary, **options)


def batches(*arguments, **options):
    return resumable_iterator(pair_batches(*arguments, **options))


def examples(iterator):
    """Unmasked examples, one dictionary a row."""
    for batch in iterator:
        for i in np.flatnonzero(batch["valid"]):
            row = {name: x[i] for name, x in batch.items()}
            ids = row["input_ids"].copy()
            positions = row["masked_positions"][row["masked_valid"]]
            ids[positions] = row["masked_ids"][row["masked_valid"]]
            yield row | {"original": ids[row["attention_mask"]], "positions": positions}


# Pairs


def test_an_example_is_cls_a_sep_b_sep():
    lengths = set()
    for row in examples(batches(epochs=3)):
        ids, types = row["original"], row["token_type_ids"][row["attention_mask"]]
        length = len(ids)
        lengths.add(length)
        (first, last) = np.flatnonzero(ids == SEP)
        assert ids[0] == CLS
        assert last == length - 1
        assert 1 < first < last - 1
        assert types.tolist() == [0] * (first + 1) + [1] * (length - first - 1)
        assert row["attention_mask"].tolist() == [True] * length + [False] * (len(row["input_ids"]) - length)
        assert not row["token_type_ids"][length:].any()
        assert (row["input_ids"][length:] == PAD).all()
        assert not np.isin(np.delete(ids, [0, first, last]), [PAD, CLS, SEP, MASK]).any()
    assert max(lengths) == S


def test_labels_say_whether_the_text_is_consecutive():
    seen = set()
    for row in examples(batches(epochs=3)):
        first, last = np.flatnonzero(row["original"] == SEP)
        a, b = row["original"][1:first], row["original"][first + 1 : last]
        assert (np.diff(a) == 1).all()
        assert (np.diff(b) == 1).all()
        (home,), (other,) = ({HOME[int(token)] for token in text} for text in (a, b))
        if row["label"] == 0:
            assert home == other
            assert b[0] == a[-1] + 1
        else:
            assert home != other
        seen.add(int(row["label"]))
    assert seen == {0, 1}


def test_a_and_b_meet_at_a_sentence_boundary():
    starts = {int(sentence[0]) for document in DOCUMENTS for sentence in document}
    for row in examples(batches(epochs=2)):
        first, _ = np.flatnonzero(row["original"] == SEP)
        assert int(row["original"][first + 1]) in starts
        a_end = int(row["original"][first - 1])
        assert a_end + 1 in starts or a_end + 1 not in HOME


def test_half_of_the_pairs_are_next():
    # A fair coin for each pair: 5 standard deviations.
    labels = np.array([pair.label for epoch in range(200) for pair in plan_pairs(DOCUMENTS, S, 0, epoch)])
    assert len(labels) > 10_000
    assert abs(labels.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(labels))


def test_the_length_of_b_does_not_tell_the_label():
    pairs = [pair for epoch in range(40) for pair in plan_pairs(DOCUMENTS, S, 0, epoch)]
    sizes = np.array([sum(len(DOCUMENTS[d][i]) for i in range(begin, end)) for _, (d, begin, end), _ in pairs])
    labels = np.array([pair.label for pair in pairs])
    # With B filled up to the target instead, the correlation here is 0.4.
    assert abs(np.corrcoef(sizes, labels)[0, 1]) < 0.15


def test_a_random_b_comes_from_any_other_document_and_begins_anywhere():
    found = [pair for epoch in range(200) for pair in plan_pairs(DOCUMENTS, S, 0, epoch) if pair.label == 1]
    homes = np.zeros((len(DOCUMENTS), len(DOCUMENTS)))
    for (number, *_), (other, *_), _ in found:
        homes[number, other] += 1
    assert not np.diag(homes).any()
    expected = (homes.sum(1)[:, None] / (len(DOCUMENTS) - 1) * (1 - np.eye(len(DOCUMENTS)))).sum(0)
    assert abs(homes.sum(0) - expected).max() < 5 * np.sqrt(expected.max())
    # Every sentence of a document is equally likely to be the first: 5 standard deviations of the mean rank.
    ranks = [(begin + 0.5) / len(DOCUMENTS[other]) for _, (other, begin, _), _ in found]
    assert abs(np.mean(ranks) - 0.5) < 5 / np.sqrt(12 * len(ranks))


def test_sentences_that_a_random_b_displaces_are_put_back():
    for number, document in enumerate(DOCUMENTS):
        pairs = [pair for pair in plan_pairs(DOCUMENTS, S, 3, 0) if pair.first[0] == number]
        position = 0
        for first, second, label in pairs:
            assert first[1] == position
            position = second[2] if label == 0 else first[2]
        assert position >= len(document) - 1  # a single last sentence is skipped


def test_chunks_reach_the_target_and_a_tenth_are_shorter():
    documents = [[np.array([FIRST], np.int32)] * 5000, [np.array([FIRST], np.int32)] * 2]
    pairs = [pair for epoch in range(150) for pair in plan_pairs(documents, S, 0, epoch)]
    # A pair shows its whole chunk if B was kept. The document's last chunk may be shorter, so it is left out.
    whole = [pair for pair in pairs if pair.label == 0 and pair.first[0] == 0 and pair.second[2] < 5000]
    sizes = np.array([pair.second[2] - pair.first[1] for pair in whole])
    assert sizes.max() == S - 3
    assert sizes.min() >= 2
    # The short tenth is drawn from 2 to 29, so one in 28 of it still has the full length.
    share = 0.1 * 27 / 28
    assert len(sizes) > 5000
    assert abs((sizes < S - 3).mean() - share) < 5 * np.sqrt(share * (1 - share) / len(sizes))


def test_the_longer_text_is_cut_at_its_far_end():
    def cut(a, b, max_tokens):
        first, second = _truncate_pair(np.arange(a), np.arange(100, 100 + b), max_tokens)
        return first.tolist(), [token - 100 for token in second]

    assert cut(3, 4, 8) == ([0, 1, 2], [0, 1, 2, 3])
    assert cut(10, 2, 8) == ([4, 5, 6, 7, 8, 9], [0, 1])
    assert cut(2, 10, 8) == ([0, 1], [0, 1, 2, 3, 4, 5])
    assert cut(10, 10, 7) == ([6, 7, 8, 9], [0, 1, 2])


# Masks


def test_rates_of_masking():
    counts = dict.fromkeys(("mask", "random", "kept"), 0)
    for row in examples(batches(epochs=60)):
        text = len(row["original"]) - 3
        assert len(row["positions"]) == max(1, round(0.15 * text))
        for position, token in zip(row["positions"], row["masked_ids"], strict=False):
            replacement = row["input_ids"][position]
            counts["mask" if replacement == MASK else "kept" if replacement == token else "random"] += 1
        others = np.delete(np.arange(len(row["original"])), row["positions"])
        assert (row["input_ids"][others] == row["original"][others]).all()
    total = sum(counts.values())
    assert total > 10_000
    # One random token in 60,000 equals the original, which is negligible here.
    for name, share in {"mask": 0.8, "random": 0.1, "kept": 0.1}.items():
        assert abs(counts[name] / total - share) < 5 * np.sqrt(share * (1 - share) / total)


def test_masked_fields_are_padded_and_special_tokens_never_masked():
    for batch in batches(epochs=3):
        places = max_masked_positions(batch["input_ids"].shape[1])
        assert (
            batch["masked_positions"].shape == batch["masked_ids"].shape == batch["masked_valid"].shape == (8, places)
        )
        valid = batch["masked_valid"]
        assert (np.diff(valid.astype(int), axis=1) <= 0).all()  # real ones first
        assert not batch["masked_positions"][~valid].any()
        assert not batch["masked_ids"][~valid].any()
        assert (batch["masked_ids"][valid] >= FIRST).all()
        assert not valid[~batch["valid"]].any()
        assert batch["attention_mask"].any(axis=1).all()
    for row in examples(batches(epochs=3)):
        assert (np.diff(row["positions"]) > 0).all()
        assert np.isin(row["original"][[0, -1]], [CLS, SEP]).all()
        assert row["attention_mask"][row["positions"]].all()


# Order


def assert_equal_batches(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def rows_of(iterator):
    return [tuple(row["input_ids"][row["attention_mask"]]) for row in examples(iterator)]


def test_seeds_and_epochs_differ():
    one = rows_of(batches(epochs=2))
    size = len(plan_pairs(DOCUMENTS, S, 0, 0))
    # Sorted: a run of more epochs may have other bucket boundaries, and so another order.
    assert sorted(one[:size]) == sorted(rows_of(batches(epochs=1)))
    runs = [one[:size], one[size:], rows_of(batches(seed=1))]
    for a, b in itertools.combinations(runs, 2):
        assert len(set(a) & set(b)) < 0.05 * size
    assert rows_of(batches(epochs=2)) == one
    # The pairs differ too, not only the masks.
    pairs = [{pair[:2] for pair in plan_pairs(DOCUMENTS, S, *run)} for run in ((0, 0), (0, 1), (1, 0))]
    for a, b in itertools.combinations(pairs, 2):
        assert len(a & b) < 0.6 * len(a)


def test_an_epoch_is_shuffled():
    homes = [HOME[int(row["original"][1])] for row in examples(batches())]
    assert sum(a <= b for a, b in itertools.pairwise(homes)) < 0.7 * len(homes)


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_batch_size_changes_no_example(whole_word):
    words = make_vocabulary(range(FIRST, SIZE))  # a text is one word, over the budget and sometimes over the maximum
    few, many = (
        {
            int(row["index"]): (row["input_ids"][row["attention_mask"]].tolist(), row["positions"].tolist())
            for row in examples(batches(vocabulary=words, epochs=3, batch_size=size, whole_word=whole_word))
        }
        for size in (5, 16)
    )
    assert few == many
    assert len({batch["input_ids"].shape[1] for batch in batches(vocabulary=words, epochs=3)}) > 1


def test_indices_are_unique_and_one_batch_of_an_epoch_is_not_full():
    found = iter(list(batches(epochs=3)))
    first = 0
    for epoch in range(3):
        total = len(plan_pairs(DOCUMENTS, S, 0, epoch))
        part = list(itertools.islice(found, -(-total // 8)))
        indices = np.concatenate([batch["index"][batch["valid"]] for batch in part]).tolist()
        assert sorted(indices) == list(range(first, first + total))
        rest = [total % 8] if total % 8 else []
        assert sorted(int(batch["valid"].sum()) for batch in part) == rest + [8] * (total // 8)
        first += total
    assert first % 8  # otherwise every batch is full
    assert not list(found)
    masks = {"attention_mask", "masked_valid", "valid"}
    assert {name: x.dtype.name for name, x in part[0].items()} == {
        name: "bool" if name in masks else "int32" for name in part[0]
    }


# Padding


def documents_of(*lengths):
    """Documents of two sentences that together make an example of the given length."""
    return [[np.full(length - 4, FIRST, np.int32), np.array([FIRST], np.int32)] for length in lengths]


def test_short_pairs_are_padded_to_their_bucket():
    source = pair_batches(documents_of(*[24] * 40, *[48] * 8), max_length=128, epochs=2)
    found = [source[i] for i in range(len(source))]
    assert source.bucket_boundaries[0] == 24
    assert source.bucket_boundaries[-1] <= 96  # the longest text twice, and three tokens
    for batch in found:
        longest = batch["attention_mask"].sum(axis=1).max()
        assert batch["input_ids"].shape[1] == min(edge for edge in source.bucket_boundaries if edge >= longest)
    assert sum(batch["input_ids"].shape[1] == 24 for batch in found) >= 6
    first = found[: len(found) // 2]
    real = sum(batch["attention_mask"][batch["valid"]].sum() for batch in first)
    assert source.real_token_fraction() == real / sum(batch["input_ids"].size for batch in first)


@pytest.mark.parametrize(
    ("lengths", "bucket_boundaries"),
    [
        ([128] * 50, (128,)),
        ([24] * 50 + [128] * 50, (24, 128)),
        ([30, 32, 1], (8, 32)),  # 72 tokens, not 96
        # Saving half of the length on 9% of the examples is not worth a compilation; on 11% it is.
        ([64] * 9 + [128] * 91, (128,)),
        ([64] * 11 + [128] * 89, (64, 128)),
        # Four boundaries take 640 tokens; a fifth would save another tenth, but four is the maximum.
        ([8] * 16 + [16] * 8 + [32] * 4 + [64] + [128], (8, 16, 32, 128)),
        # Relative to 20 tokens, not to the next multiple of 8: saving 4 of 20 on a fifth is less than a twentieth.
        ([16] * 20 + [20] * 80, (20,)),
    ],
)
def test_each_bucket_is_worth_its_compilation(lengths, bucket_boundaries):
    assert _bucket_boundaries(np.array(lengths), 128 if 128 in lengths else max(lengths)) == bucket_boundaries


def test_no_batch_is_longer_than_max_length():
    (document,) = documents_of(200)
    source = pair_batches([document] * 4, max_length=S - 3, batch_size=2)
    assert source.bucket_boundaries == (S - 3,)
    assert source[0]["input_ids"].shape == (2, S - 3)


# Resumption


@pytest.mark.parametrize("taken", [0, 1, 11, 20])
def test_a_state_resumes_exactly(taken):
    whole = list(batches(epochs=3, whole_word=True))
    begun = batches(epochs=3, whole_word=True)
    for _ in range(taken):
        next(begun)
    state = json.loads(json.dumps(begun.get_state()))
    resumed = batches(epochs=3, whole_word=True)
    next(resumed)
    resumed.set_state(state)
    assert_equal_batches(list(resumed), whole[taken:])


def test_evaluation_is_the_same_every_time():
    planner = SentencePairs(DOCUMENTS, VOCABULARY, S)
    first, second = (list(eval_mlm_batches(planner, VOCABULARY, batch_size=8)) for _ in range(2))
    assert_equal_batches(first, second)
    total = sum(len(plan_pairs(DOCUMENTS, S, EVAL_SEED, epoch)) for epoch in range(4))
    assert sum(int(batch["valid"].sum()) for batch in first) == total


# From text


def test_documents_are_tokenised_sentence_by_sentence(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    found = tokenize_documents([("the film", "a story."), ("", "\u200b"), ("Superb",)], tokenizer)
    pieces = [[tokenizer.decode(sentence, skip_special_tokens=False) for sentence in doc] for doc in found]
    assert pieces == [["the film", "a story [UNK]"], ["superb"]]
    assert found[0][0].dtype == np.int32


@pytest.mark.parametrize("documents", [DOCUMENTS[:1], [[np.array([10])], [np.array([11])]]])
def test_documents_that_make_no_pair_are_refused(documents):
    with pytest.raises(UserError, match="--config.corpus: expected at least 2 documents .* one of them of 2 sentences"):
        batches(documents)
