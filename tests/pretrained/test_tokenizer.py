"""Tokenisation, against pieces worked out by hand from BERT's rules and against Transformers' tokenizer."""

import errno
import json
import os

import numpy as np
import pytest
import zoo

from bertjax.data.tokenize import tokenize
from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.pretrained.tokenizer import check_tokenizer_fits, load_tokenizer, reading, vocabulary

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNCASED = [*SPECIAL, "a", "film", "!", "un", "##aff", "##able", "##a"]
UNCASED += ["resume", "résumé", "映", "画", "映画", "<s>", "</s>"]
CASED = [*SPECIAL, "a", "film", "Film", "resume", "Résumé"]

# Text, and the pieces of an uncased BERT between [CLS] and [SEP].
GOLDEN = [
    ("A film!", "a film !"),
    ("unaffable FILM", "un ##aff ##able film"),
    ("filmy a", "[UNK] a"),
    ("Résumé", "resume"),
    ("Re\u0301sume\u0301", "resume"),
    ("映画film", "映 画 film"),
    ("fi\x00lm fi\x07lm fi\ufffdlm", "film film film"),
    ("fi\u200blm fi\u200dlm fi\u00adlm \ufefffilm", "film film film film"),
    ("a\tfilm\u00a0film\u2003a\nfilm\r\n", "a film film a film"),
    ("film \U0001f600 film", "film [UNK] film"),
    ("film[MASK]film [SEP] [PAD]", "film [MASK] film [SEP] [PAD]"),
    ("[mask]", "[UNK] [UNK] [UNK]"),
    ("", ""),
    ("  ", ""),
    ("a" * 100, "a" + " ##a" * 99),
    ("a" * 101, "[UNK]"),
]


def write(folder, vocabulary=UNCASED, config=None):
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def rows_of(texts):
    return [{"id": str(i), "text": text, "label": i} for i, text in enumerate(texts)]


def pairs_of(pairs):
    return [{"id": str(i), "text": a, "text_pair": b, "label": i} for i, (a, b) in enumerate(pairs)]


def pieces_of(folder, text, vocabulary=UNCASED):
    examples = tokenize(rows_of([text]), load_tokenizer(folder), max_length=512)
    return " ".join(vocabulary[i] for i in examples.input_ids[0][1:-1])


@pytest.mark.parametrize(("text", "pieces"), GOLDEN)
def test_golden_pieces(tmp_path, text, pieces):
    examples = tokenize(rows_of([text]), load_tokenizer(write(tmp_path)), max_length=512)
    expected = [UNCASED.index(piece) for piece in ["[CLS]", *pieces.split(), "[SEP]"]]
    assert examples.input_ids[0].tolist() == expected
    assert examples.token_type_ids[0].tolist() == [0] * len(expected)


def test_golden_ids_of_a_pair(tmp_path):
    examples = tokenize(pairs_of([("A film!", "a")]), load_tokenizer(write(tmp_path)), max_length=16)
    assert examples.input_ids[0].tolist() == [2, 5, 6, 7, 3, 5, 3]
    assert examples.token_type_ids[0].tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_truncation_keeps_the_special_tokens(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path))
    assert tokenize(rows_of(["film " * 600]), tokenizer, max_length=512).input_ids[0].tolist() == [2, *[6] * 510, 3]
    assert tokenize(rows_of(["film " * 600]), tokenizer, max_length=3).input_ids[0].tolist() == [2, 6, 3]


def test_truncation_of_a_pair_cuts_the_longer_text_first(tmp_path):
    pairs = [("film film film film", "a a"), ("a a", "film film film film")]
    examples = tokenize(pairs_of(pairs), load_tokenizer(write(tmp_path)), max_length=7)
    assert [ids.tolist() for ids in examples.input_ids] == [[2, 6, 6, 3, 5, 5, 3], [2, 5, 5, 3, 6, 6, 3]]
    assert examples.token_type_ids[0].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_examples_keep_order_names_and_types(tmp_path):
    source = [{"id": f"r{i}", "text": "film " * (i % 3), "label": np.int64(i)} for i in range(2500)]
    examples = tokenize(iter(source), load_tokenizer(write(tmp_path)), max_length=8)
    assert len(examples) == 2500
    assert examples.ids == [f"r{i}" for i in range(2500)]
    assert examples.labels.dtype == np.int32
    assert examples.labels.tolist() == list(range(2500))
    assert examples.lengths.tolist() == [2 + i % 3 for i in range(2500)]
    assert {a.dtype for a in examples.input_ids + examples.token_type_ids} == {np.dtype(np.int32)}


def test_float_labels_stay_floats(tmp_path):
    rows = [{"id": "0", "text": "a", "label": 3}, {"id": "1", "text": "a", "label": 2.5}]
    labels = tokenize(rows, load_tokenizer(write(tmp_path)), max_length=8).labels
    assert labels.dtype == np.float32
    assert labels.tolist() == [3.0, 2.5]


def test_an_empty_source_gives_no_examples(tmp_path):
    examples = tokenize([], load_tokenizer(write(tmp_path)), max_length=8)
    assert len(examples) == 0
    assert examples.labels.dtype == np.int32


def test_tokenize_leaves_the_tokenizer_as_it_was(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path))
    tokenize(rows_of(["film film"]), tokenizer, max_length=3)
    assert tokenizer.truncation is None
    with pytest.raises(KeyError):
        tokenize([{"id": "0"}], tokenizer, max_length=3)
    assert tokenizer.truncation is None


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_a_max_length_without_room_for_text_is_an_error(tmp_path, max_length):
    with pytest.raises(UserError, match=rf"--config\.max_length: expected at least 3 tokens, found {max_length}"):
        tokenize([], load_tokenizer(write(tmp_path)), max_length=max_length)


# Settings


@pytest.mark.parametrize("config", [None, {}, {"do_lower_case": None}])
def test_a_cased_vocabulary_is_not_lower_cased(tmp_path, config):
    folder = write(tmp_path, CASED, config)
    assert pieces_of(folder, "Film film Résumé", CASED) == "Film film Résumé"


@pytest.mark.parametrize("marker", ["[unused1]", "[E1]", "<S>", "<T>", "\u211d"])
def test_markers_and_capitals_without_a_small_form_do_not_make_a_vocabulary_cased(tmp_path, marker):
    folder = write(tmp_path, [*UNCASED, marker])
    assert pieces_of(folder, "Film") == "film"


def test_a_few_capitals_do_not_make_a_vocabulary_cased(tmp_path):
    words = [f"word{i}" for i in range(100)]
    assert pieces_of(write(tmp_path, [*UNCASED, *words, "COVID"]), "Film") == "film"
    assert pieces_of(write(tmp_path, [*UNCASED, *words, *(word.title() for word in words[:9])]), "Film") == "[UNK]"


@pytest.mark.parametrize(("pieces", "guess"), [(UNCASED, "true"), (CASED, "false")])
def test_a_guess_of_the_case_is_reported(tmp_path, capsys, pieces, guess):
    load_tokenizer(write(tmp_path, pieces))
    expected = f"warning: {tmp_path}/tokenizer_config.json: do_lower_case is not stated; guessed {guess}, "
    assert capsys.readouterr().err.startswith(expected)
    load_tokenizer(write(tmp_path, pieces, {"do_lower_case": True}))
    assert capsys.readouterr().err == ""


def test_special_tokens_under_other_names_do_not_make_a_vocabulary_cased(tmp_path):
    pieces = ["[PAD]", "UNK", "[CLS]", "[SEP]", "[MASK]", "film"]
    assert pieces_of(write(tmp_path, pieces, {"unk_token": "UNK"}), "Film FILMY", pieces) == "film UNK"


def test_the_config_decides_on_case_if_it_says_so(tmp_path):
    assert pieces_of(write(tmp_path, UNCASED, {"do_lower_case": False}), "Film film") == "[UNK] film"
    assert pieces_of(write(tmp_path, CASED, {"do_lower_case": True}), "Film Résumé", CASED) == "film resume"


def test_settings_of_accents_and_chinese_characters(tmp_path):
    assert pieces_of(write(tmp_path, UNCASED, {"strip_accents": False}), "Résumé") == "résumé"
    assert pieces_of(write(tmp_path, UNCASED, {"tokenize_chinese_chars": False}), "映画") == "映画"


def test_special_tokens_are_named_by_the_config(tmp_path):
    config = {"cls_token": {"content": "<s>", "special": True}, "sep_token": "</s>", "pad_token": None}
    tokenizer = load_tokenizer(write(tmp_path, UNCASED, config))
    ids = tokenize(pairs_of([("a", "film <s>")]), tokenizer, max_length=16).input_ids[0]
    assert [UNCASED[i] for i in ids] == ["<s>", "a", "</s>", "film", "<s>", "</s>"]


def test_vocabulary_lines_end_at_line_ends_only(tmp_path):
    pieces = [*SPECIAL, "\u2028", "\x85", "a", "film"]
    (tmp_path / "vocab.txt").write_bytes(("\r\n".join(pieces) + "\r\n\r\n").encode())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.get_vocab_size() == len(pieces) + 1  # the blank line
    assert tokenize(rows_of(["a film"]), tokenizer, max_length=8).input_ids[0].tolist() == [2, 7, 8, 3]


def test_tokenizer_json_may_truncate_and_pad_but_we_do_not(tmp_path):
    ready = load_tokenizer(write(tmp_path, config={"do_lower_case": True}))
    ready.enable_truncation(4)
    ready.enable_padding(length=32)
    ready.save(str(tmp_path / "tokenizer.json"))
    for _ in range(2):  # with vocab.txt beside it, and without
        tokenizer = load_tokenizer(tmp_path)
        assert (tokenizer.truncation, tokenizer.padding) == (None, None)
        assert pieces_of(tmp_path, "A film unaffable!") == "a film un ##aff ##able !"
        (tmp_path / "vocab.txt").unlink(missing_ok=True)


# Errors


def write_bytes(name, content):
    return lambda folder: (write(folder) / name).write_bytes(content)


def write_only_json(content):
    return lambda folder: (folder / "tokenizer.json").write_text(content, encoding="utf-8")


def write_changed_json(change):
    def write_changed(folder):
        content = json.loads(load_tokenizer(write(folder)).to_str())
        change(content)
        (folder / "vocab.txt").unlink()
        write_only_json(json.dumps(content))(folder)

    return write_changed


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: None, r"expected the checkpoint's vocab\.txt or tokenizer\.json, found neither"),
        (write_bytes("vocab.txt", b"[PAD]\nfilm\xff\n"), r"vocab\.txt: expected UTF-8"),
        (write_bytes("vocab.txt", b""), r"vocab\.txt: expected the special token '\[UNK\]'"),
        (lambda folder: write(folder, SPECIAL[:4]), r"vocab\.txt: expected the special token '\[MASK\]'.*mask_token"),
        (lambda folder: write(folder, [*UNCASED, "film"]), r"line 20: .* found 'film', also on line 7"),
        (lambda folder: (write(folder) / "tokenizer_config.json").mkdir(), r"tokenizer_config\.json: cannot be read"),
        (write_bytes("tokenizer_config.json", b"{"), r"tokenizer_config\.json: expected JSON"),
        (write_bytes("tokenizer_config.json", b"\xff"), r"tokenizer_config\.json: expected JSON"),
        (write_bytes("tokenizer_config.json", b"[1]"), r"expected an object, found"),
        (write_bytes("tokenizer_config.json", b'{"do_lower_case": 1}'), "do_lower_case: expected true, false or null"),
        (write_bytes("tokenizer_config.json", b'{"sep_token": 3}'), "sep_token: expected a string, found 3"),
        (write_only_json("{"), r"tokenizer\.json: not a readable tokenizer"),
        (
            write_changed_json(lambda content: content["post_processor"]["special_tokens"]["[CLS]"].update(ids=[99])),
            "ids that its vocabulary lacks",
        ),
        (
            write_changed_json(lambda content: content["model"].update(unk_token="?")),
            r"not a readable tokenizer \(.*Missing \[UNK\]",
        ),
    ],
)
def test_errors_are_one_line_and_name_the_file(tmp_path, break_it, message):
    break_it(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_ids_must_lie_within_the_embedding_table(tmp_path, capsys):
    tokenizer, size = load_tokenizer(write(tmp_path, config={"do_lower_case": True})), len(UNCASED)
    check_tokenizer_fits(tokenizer, BertConfig(vocab_size=size), tmp_path)
    check_tokenizer_fits(tokenizer, BertConfig(vocab_size=size + 127), tmp_path)
    assert capsys.readouterr().err == ""
    check_tokenizer_fits(tokenizer, BertConfig(vocab_size=size + 128), tmp_path)
    assert f"{tmp_path}: the embedding table has {size + 128} rows, the vocabulary {size} entries" in (
        capsys.readouterr().err
    )
    with pytest.raises(UserError, match=f"vocabulary of at most {size - 1} entries.* found {size};") as error:
        check_tokenizer_fits(tokenizer, BertConfig(vocab_size=size - 1), tmp_path)
    assert str(tmp_path) in str(error.value)


def test_token_types_must_lie_within_their_table(tmp_path):
    zoo.generic(tmp_path, zoo.with_template(zoo.word_level(), zoo.NAMES, second_type=2))
    tokenizer = load_tokenizer(tmp_path)
    for types in (1, 3):  # a model with one type uses it for both texts
        check_tokenizer_fits(tokenizer, BertConfig(type_vocab_size=types), tmp_path)
    with pytest.raises(UserError, match="token types below 2, .*, found 2 in the tokenizer's template"):
        check_tokenizer_fits(tokenizer, BertConfig(type_vocab_size=2), tmp_path)


# The oracle


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
    ],
)
def test_equals_transformers(tmp_path, config):
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path, [*UNCASED, *CASED[7:8], *CASED[9:]], config)
    theirs, ours = transformers.BertTokenizer.from_pretrained(folder), load_tokenizer(folder)
    texts = [text for text, _ in GOLDEN] + ["film " * 600, "Film \u0130 \ue000", "[CLS][MASK]Film"]
    pairs = list(zip(texts, texts[5:] + texts[:5], strict=True))
    for rows, columns in ((rows_of(texts), (texts,)), (pairs_of(pairs), tuple(map(list, zip(*pairs, strict=True))))):
        for max_length in (3, 6, 512):
            examples = tokenize(rows, ours, max_length=max_length)
            expected = theirs(*columns, truncation=True, max_length=max_length)
            assert [ids.tolist() for ids in examples.input_ids] == expected["input_ids"]
            assert [ids.tolist() for ids in examples.token_type_ids] == expected["token_type_ids"]


def test_a_vocabulary_without_read_permission(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(vocabulary, "read_text", refuse)
    with pytest.raises(UserError, match=r"vocab.txt: cannot be read \(Permission denied\); check its permissions"):
        load_tokenizer(write(tmp_path))


def test_a_vocabulary_or_settings_that_are_too_large(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"a" * (2**24 + 1))
    with pytest.raises(UserError, match="vocab.txt: expected at most 16,777,216 bytes, found more"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b" " * (2**23 + 1))
    with pytest.raises(UserError, match="tokenizer_config.json: expected at most 8,388,608 bytes, found more"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match=r"tokenizer_config.json: expected JSON, .* \(nested too deeply\); "):
        load_tokenizer(tmp_path)


def test_a_panic_of_the_library_is_one_line(tmp_path, monkeypatch):
    class PanicException(BaseException):
        """Like the exception of the library's bindings."""

    class Panicking:
        @staticmethod
        def from_str(text):
            raise PanicException("index out of bounds")

    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(reading, "Tokenizer", Panicking)
    with pytest.raises(UserError, match=r"tokenizer.json: not a readable tokenizer \(index out of bounds\); get it"):
        load_tokenizer(tmp_path)
