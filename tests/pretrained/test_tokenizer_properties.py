"""Properties of every tokenised text and pair, against a reference that truncates one token at a time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.tokenize import tokenize
from bertjax.pretrained.tokenizer import load_tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "!", "un", "##aff", "##able"]
PIECES = {"a": ["a"], "film": ["film"], "!": ["!"], "unaffable": ["un", "##aff", "##able"], "zz": ["[UNK]"]}
TEXTS = st.lists(st.sampled_from(sorted(PIECES)), max_size=12)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return load_tokenizer(folder)


def ids_of(words):
    return [VOCABULARY.index(piece) for word in words for piece in PIECES[word]]


def encoded(tokenizer, max_length, **texts):
    row = {name: " ".join(words) for name, words in texts.items()}
    examples = tokenize([{"id": "x", "label": 0, **row}], tokenizer, max_length=max_length)
    return examples.input_ids[0].tolist(), examples.token_type_ids[0].tolist()


def assemble(*texts):
    cls, sep = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    ids, types = [cls], [0]
    for number, text in enumerate(texts):
        ids += [*text, sep]
        types += [number] * (len(text) + 1)
    return ids, types


def longest_first(first, second, room, *, cut_on_a_tie):
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        is_first = len(first) > len(second) if len(first) != len(second) else cut_on_a_tie == "first"
        (first if is_first else second).pop()
    return first, second


@given(text=TEXTS, max_length=st.integers(3, 40))
@settings(max_examples=100)
def test_a_text(tokenizer, text, max_length):
    assert encoded(tokenizer, max_length, text=text) == assemble(ids_of(text)[: max_length - 2])


@given(first=TEXTS, second=TEXTS, max_length=st.integers(5, 40))
@settings(max_examples=200)
def test_a_pair(tokenizer, first, second, max_length):
    found = encoded(tokenizer, max_length, text=first, text_pair=second)
    assert len(found[0]) == min(max_length, 3 + len(ids_of(first)) + len(ids_of(second)))
    # Either of two equally long texts may be truncated first.
    assert found in [
        assemble(*longest_first(ids_of(first), ids_of(second), max_length - 3, cut_on_a_tie=tie))
        for tie in ("first", "second")
    ]


@given(texts=st.lists(TEXTS, max_size=5), max_length=st.integers(3, 12))
@settings(max_examples=50)
def test_examples_do_not_depend_on_their_neighbours(tokenizer, texts, max_length):
    rows = [{"id": str(i), "text": " ".join(words), "label": i} for i, words in enumerate(texts)]
    examples = tokenize(rows, tokenizer, max_length=max_length)
    assert examples.ids == [str(i) for i in range(len(texts))]
    assert examples.labels.tolist() == list(range(len(texts)))
    alone = [encoded(tokenizer, max_length, text=words)[0] for words in texts]
    assert [ids.tolist() for ids in examples.input_ids] == alone
    assert examples.lengths.tolist() == [len(ids) for ids in alone]
