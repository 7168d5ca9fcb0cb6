"""Masks drawn by hand: which tokens may be chosen, whole words, and the vocabulary that masking reads."""

import itertools
import json

import numpy as np
import pytest
import zoo
from tokenizers import processors

from bertjax.data.masking import Vocabulary, mask_tokens, max_masked_positions, read_vocabulary
from bertjax.errors import UserError
from bertjax.pretrained.tokenizer import read_tokenizer

PAD, CLS, SEP, MASK, FIRST = 0, 2, 3, 4, 10
SIZE = 60_000
P = 5


def make_vocabulary(continued=()):
    is_special, is_continued = np.zeros((2, SIZE), bool)
    is_special[:FIRST] = True
    is_continued[list(continued)] = True
    return Vocabulary(CLS, SEP, MASK, PAD, is_special, is_continued)


VOCABULARY = make_vocabulary()


def test_random_tokens_are_text_of_the_whole_vocabulary():
    ids = np.array([CLS, *[FIRST] * 200, SEP], np.int32)
    drawn = []
    for seed in range(400):
        hidden, chosen = mask_tokens(ids, VOCABULARY, np.random.default_rng(seed), max_masked=30, whole_word=False)
        drawn += [int(x) for x in hidden[chosen] if x not in (MASK, FIRST)]
    assert min(drawn) >= FIRST
    assert len(drawn) > 1000
    # Uniform over [10, 60000).
    assert np.mean(drawn) == pytest.approx((FIRST + SIZE - 1) / 2, rel=0.06)
    assert max(drawn) > 0.98 * SIZE


def test_every_position_is_equally_likely():
    ids = np.arange(FIRST, FIRST + 20, dtype=np.int32)
    counts = np.zeros(20)
    for seed in range(4000):
        _, chosen = mask_tokens(ids, VOCABULARY, np.random.default_rng(seed), max_masked=P, whole_word=False)
        counts[chosen] += 1
    assert counts.sum() == 4000 * 3
    assert abs(counts / 4000 - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 4000)


# Tokens 11, 12 and 21 continue a word.
PIECES = make_vocabulary([11, 12, 21])


@pytest.mark.parametrize("seed", range(5))
def test_whole_words_are_wholly_masked(seed):
    words = [[10], [20, 21], [10, 11, 12], [30], [20], [10, 11]]
    rng = np.random.default_rng(seed)
    for _ in range(100):
        text = [words[i] for i in rng.integers(len(words), size=30)]
        ids = np.array([CLS, *itertools.chain(*text), SEP], np.int32)
        ends = np.cumsum([1, *map(len, text)])
        _, chosen = mask_tokens(ids, PIECES, rng, max_masked=20, whole_word=True)
        for begin, end in itertools.pairwise(ends):
            assert np.isin(np.arange(begin, end), chosen).sum() in (0, end - begin)
        budget = round(0.15 * (len(ids) - 2))
        assert budget - 3 < len(chosen) <= budget  # less than a word below the budget


def test_without_whole_word_pieces_are_masked_separately():
    ids = np.array([CLS, *[10, 11] * 10, SEP], np.int32)
    rng = np.random.default_rng(0)
    split = [mask_tokens(ids, PIECES, rng, max_masked=P, whole_word=False)[1] for _ in range(20)]
    assert any((position + 1) // 2 not in {(x + 1) // 2 for x in c if x != position} for c in split for position in c)


def test_a_word_may_exceed_the_budget_but_not_the_maximum():
    ids = np.array([CLS, 10, 11, 12, SEP], np.int32)
    rng = np.random.default_rng(0)
    assert mask_tokens(ids, PIECES, rng, max_masked=3, whole_word=True)[1].tolist() == [1, 2, 3]
    assert mask_tokens(ids, PIECES, rng, max_masked=2, whole_word=True)[1].tolist() == []
    assert len(mask_tokens(ids, PIECES, rng, max_masked=2, whole_word=False)[1]) == 1


@pytest.mark.parametrize("whole_word", [False, True])
def test_a_text_of_special_tokens_has_nothing_to_mask(whole_word):
    ids = np.array([CLS, MASK, SEP, MASK, SEP], np.int32)
    hidden, chosen = mask_tokens(ids, VOCABULARY, np.random.default_rng(0), max_masked=P, whole_word=whole_word)
    assert len(chosen) == 0
    assert hidden.tolist() == ids.tolist()


def test_max_masked_positions():
    assert [max_masked_positions(n) for n in (8, 20, 32, 128, 512)] == [2, 3, 5, 20, 77]


def test_special_tokens_and_pieces_of_a_vocabulary(tmp_path):
    names = ["[UNK]", "<pad>", "[SEP]", "[CLS]", "a", "##b", "[MASK]", "##", "c##"]
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    vocabulary = read_vocabulary(read_tokenizer(tmp_path), tmp_path, whole_word=True, has_pairs=True)
    assert (vocabulary.cls, vocabulary.sep, vocabulary.mask, vocabulary.pad) == (3, 2, 6, 1)
    assert vocabulary.is_special.tolist() == [False, True, True, True, False, False, True, False, False]
    assert np.flatnonzero(vocabulary.is_continued).tolist() == [5, 7]


def test_added_special_tokens_are_not_text(tmp_path):
    zoo.bert_files(tmp_path, "4", added=[zoo.E1, zoo.COVID])
    vocabulary = read_vocabulary(read_tokenizer(tmp_path), tmp_path, whole_word=True, has_pairs=True)
    size = len(zoo.UNCASED)
    assert vocabulary.is_special[[size, size + 1]].tolist() == [True, False]


@pytest.mark.parametrize(
    ("tokenizer", "names", "whole_word", "message"),
    [
        (zoo.word_level, {"mask_token": None}, False, "pre-training needs mask_token, which the tokenizer lacks"),
        (zoo.unigram, zoo.ROBERTA_NAMES, False, r"encodes a pair as \[CLS\] A \[SEP\] B \[SEP\], found another"),
        (zoo.metaspace_bpe, {}, True, "whole_word needs a WordPiece tokenizer, found BPE"),
    ],
)
def test_tokenizers_that_are_not_for_pre_training(tmp_path, tokenizer, names, whole_word, message):
    zoo.generic(tmp_path, tokenizer(), zoo.NAMES | names)
    with pytest.raises(UserError, match=message):
        read_vocabulary(read_tokenizer(tmp_path), tmp_path, whole_word=whole_word, has_pairs=True)


@pytest.mark.parametrize("family", zoo.FAMILY_TOKENIZERS)
def test_the_special_tokens_of_every_family(tmp_path, family):
    zoo.family_tokenizer(tmp_path, family, is_stated=True)
    read = read_tokenizer(tmp_path)
    vocabulary = read_vocabulary(read, tmp_path, whole_word=False, has_pairs=False)
    names = ("cls_token", "sep_token", "mask_token", "pad_token")
    _, names_of_family, _ = zoo.FAMILY_TOKENIZERS[family]
    expected = [read.tokenizer.token_to_id(names_of_family[name]) for name in names]
    assert [vocabulary.cls, vocabulary.sep, vocabulary.mask, vocabulary.pad] == expected
    assert vocabulary.is_special[expected].all()
    assert not vocabulary.is_special[read.tokenizer.token_to_id(names_of_family["unk_token"])]
    text = read.tokenizer.encode("the film was superb", add_special_tokens=False).ids
    assert not vocabulary.is_special[text].any()


def test_a_text_template_that_is_not_for_pre_training(tmp_path):
    tokenizer = zoo.unigram()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    zoo.generic(tmp_path, tokenizer, zoo.ROBERTA_NAMES)
    with pytest.raises(UserError, match="encodes a text as cls_token A sep_token, found another"):
        read_vocabulary(read_tokenizer(tmp_path), tmp_path, whole_word=False, has_pairs=False)
