"""What the files of a tokenizer say together: added tokens, special tokens, classes, and contradictions."""

import json
import shutil

import pytest
import zoo

from bertjax.errors import UserError
from bertjax.pretrained.tokenizer import load_tokenizer, read_tokenizer

SIZE = len(zoo.UNCASED)


def ids_of(folder, text):
    return load_tokenizer(folder).encode(text).ids[1:-1]


def read(path):
    return json.loads(path.read_text())


def edit(folder, name, **values):
    path = folder / name
    zoo.write(folder, name, (read(path) if path.exists() else {}) | values)


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_tokenizer(folder)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


# Added tokens


@pytest.mark.parametrize("layout", ["3", "4", "5", "vocab", "json"])
def test_added_tokens_are_one_token_in_every_layout(tmp_path, layout):
    zoo.bert_files(tmp_path, layout, added=[zoo.E1, zoo.COVID])
    a, film = zoo.UNCASED.index("a"), zoo.UNCASED.index("film")
    assert ids_of(tmp_path, "a [E1] film COVID") == [a, SIZE, film, SIZE + 1]


def test_a_special_added_token_is_matched_as_written(tmp_path, capsys):
    zoo.bert_files(tmp_path, "3", added=[zoo.E1, zoo.COVID])
    assert SIZE not in ids_of(tmp_path, "[e1]")
    expected = "special_tokens_map.json: '[E1]': matched as written, as in Transformers 4; Transformers 5 matches"
    assert expected in capsys.readouterr().err


def test_added_tokens_named_in_a_list_alone_follow_the_vocabulary(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", additional_special_tokens=["[E1]", "[unused1]"])
    assert ids_of(tmp_path, "[unused1][E1]") == [zoo.UNCASED.index("[unused1]"), SIZE]


def test_flags_of_added_tokens(tmp_path):
    zoo.bert_files(tmp_path, "4", added=[zoo.flags("ab", special=False, single_word=True)])
    assert SIZE in ids_of(tmp_path, "x ab y")
    assert SIZE not in ids_of(tmp_path, "xaby")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"added_tokens.json": {"[E1]": SIZE, "covid": SIZE + 2}}, "expected 'covid' with id .* too, found id"),
        ({"added_tokens.json": {"[E1]": SIZE, "flu": SIZE + 2}}, "expected 'flu' with id .* too, found none"),
        ({"added_tokens.json": {"[E1]": "1"}}, "expected a whole number as"),
        ({"added_tokens.json": ["[E1]"]}, "expected an object"),
        (
            {"special_tokens_map.json": {"additional_special_tokens": ["[E2]"]}},
            r"special_tokens_map.json: expected the special tokens of tokenizer_config.json, found '\[E2\]' too",
        ),
        ({"special_tokens_map.json": {"cls_token": "[MASK]"}}, r"cls_token: expected '\[CLS\]', as in .*'\[MASK\]'"),
    ],
)
def test_older_files_that_contradict_the_decoder(tmp_path, changes, message):
    zoo.bert_files(tmp_path, "4", added=[zoo.E1, zoo.COVID])
    for name, value in changes.items():
        zoo.write(tmp_path, name, value)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("layout", ["3", "4", "vocab"])
@pytest.mark.parametrize("gap", [1, 100])
def test_ids_that_the_vocabulary_does_not_give(tmp_path, layout, gap):
    zoo.bert_files(tmp_path, layout, added=[zoo.E1])
    if layout == "4":
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "added_tokens.json").unlink()
    if layout == "3":
        zoo.write(tmp_path, "added_tokens.json", {"[E1]": SIZE + gap})
    else:
        decoder = read(tmp_path / "tokenizer_config.json")["added_tokens_decoder"]
        edit(
            tmp_path,
            "tokenizer_config.json",
            added_tokens_decoder={str(int(i) + gap * (int(i) == SIZE)): x for i, x in decoder.items()},
        )
    assert f"expected '[E1]' to have id {SIZE + gap}, found {SIZE}," in refusal(tmp_path)


def test_a_token_with_other_flags_in_tokenizer_json(tmp_path):
    zoo.bert_files(tmp_path, "4", added=[zoo.COVID])
    decoder = read(tmp_path / "tokenizer_config.json")["added_tokens_decoder"]
    decoder[str(SIZE)]["lstrip"] = True
    edit(tmp_path, "tokenizer_config.json", added_tokens_decoder=decoder)
    assert "expected 'covid' as in tokenizer.json" in refusal(tmp_path)


def test_a_token_of_tokenizer_json_that_the_decoder_lacks(tmp_path):
    zoo.bert_files(tmp_path, "4", added=[zoo.COVID])
    decoder = read(tmp_path / "tokenizer_config.json")["added_tokens_decoder"]
    edit(tmp_path, "tokenizer_config.json", added_tokens_decoder={i: x for i, x in decoder.items() if int(i) < SIZE})
    (tmp_path / "added_tokens.json").unlink()
    assert "expected the added tokens of tokenizer.json, found no 'covid'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("added_tokens_decoder", {"x": zoo.E1}, "added_tokens_decoder: expected ids, found 'x'"),
        ("added_tokens_decoder", {"1": "[E1]"}, "expected an object as added_tokens_decoder.1"),
        ("added_tokens_decoder", {"1": {"special": True}}, "expected added_tokens_decoder.1.content, found none"),
        ("added_tokens_decoder", {"1": {"content": "x", "lstrip": 1}}, "lstrip: expected true or false, found 1"),
        ("added_tokens_decoder", {"1": zoo.E1, "2": zoo.E1}, r"expected one id for '\[E1\]', found 1 and 2"),
        ("additional_special_tokens", "[E1]", "additional_special_tokens: expected a list, found"),
        ("additional_special_tokens", [3], r"additional_special_tokens\[0\]: expected a string, found 3"),
        ("extra_special_tokens", {"x": 3}, r"extra_special_tokens\['x'\]: expected a string, found 3"),
        ("image_token", "[IMG]", "image_token: expected a name of a special token"),
        ("tokenizer_class", 3, "tokenizer_class: expected a string, found 3"),
        ("auto_map", {"AutoTokenizer": ["x.Y", None]}, "found auto_map, which names its author's own code"),
        ("do_basic_tokenize", False, "do_basic_tokenize: expected BERT's default, found False"),
        ("never_split", ["x"], "never_split: expected BERT's default"),
    ],
)
def test_settings_of_the_wrong_kind(tmp_path, name, value, message):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", **{name: value})
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    assert "tokenizer_config.json" in str(error.value)


def test_two_lists_of_special_tokens(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", additional_special_tokens=["a"], extra_special_tokens=["film"])
    assert "expected one of additional_special_tokens and extra_special_tokens, found both" in refusal(tmp_path)


# Special tokens


def test_special_tokens_named_in_special_tokens_map_alone(tmp_path):
    names = zoo.NAMES | {"cls_token": "<s>", "sep_token": "</s>"}
    zoo.bert_files(tmp_path, "3", ["<s>", "</s>", *zoo.UNCASED], names)
    zoo.write(tmp_path, "tokenizer_config.json", {"do_lower_case": True})
    assert load_tokenizer(tmp_path).encode("", "").ids == [0, 1, 1]
    assert read_tokenizer(tmp_path).special == names


def test_special_tokens_that_transformers_does_not_take_from_the_map(tmp_path):
    names = zoo.NAMES | {"cls_token": "<s>", "sep_token": "</s>"}
    zoo.bert_files(tmp_path, "4", ["<s>", "</s>", *zoo.UNCASED], names)
    config = read(tmp_path / "tokenizer_config.json")
    zoo.write(tmp_path, "tokenizer_config.json", {name: x for name, x in config.items() if name not in names})
    assert "sep_token: expected '[SEP]', which Transformers takes beside added_tokens_decoder" in refusal(tmp_path)


def test_a_special_token_that_no_file_has(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", mask_token="<mask>")
    assert "expected the special token '<mask>', found no such entry; set mask_token in" in refusal(tmp_path)


# Classes and pipelines


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "KoBertTokenizer", "AlbertTokenizerFast", "MyTokenizer"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("layout", ["vocab", "json"])
def test_somebody_s_own_class_is_refused(tmp_path, name, file, layout):
    zoo.bert_files(tmp_path, layout)
    edit(tmp_path, file, tokenizer_class=name)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / file}: tokenizer_class: expected BertTokenizer, ")
    assert f"found '{name.removesuffix('Fast')}', which " in message
    assert ("set tokenizer_class to PreTrainedTokenizerFast" in message) == (layout == "json")


def test_classes_that_differ_between_files(tmp_path):
    zoo.bert_files(tmp_path, "3")
    edit(tmp_path, "config.json", tokenizer_class="BertJapaneseTokenizer")
    assert "expected 'BertJapaneseTokenizer', as in config.json, found 'BertTokenizer'" in refusal(tmp_path)


@pytest.mark.parametrize("mark", ["▁", "Ġ"])
def test_pieces_of_another_kind_in_a_vocab_txt(tmp_path, mark):
    zoo.bert_files(tmp_path, "vocab", [*zoo.SPECIAL, f"{mark}film", f"{mark}the", "s", "##s"])
    assert "expected WordPieces, which continue a word with ##, found 2 entries of" in refusal(tmp_path)
    zoo.bert_files(tmp_path, "vocab", [*zoo.UNCASED, mark, f"{mark}film"])
    load_tokenizer(tmp_path)


def test_a_vocab_txt_that_differs_from_tokenizer_json(tmp_path):
    zoo.bert_files(tmp_path, "4")
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    zoo.write(tmp_path, "vocab.txt", zoo.vocab_text([*lines[:7], "other", *lines[8:]]))
    assert "vocab.txt: line 8: expected the vocabulary of tokenizer.json, found 'other'" in refusal(tmp_path)
    zoo.write(tmp_path, "vocab.txt", zoo.vocab_text(lines[:-1]))
    assert f"vocab.txt: line {len(lines)}: expected the vocabulary of tokenizer.json, found the end" in refusal(
        tmp_path
    )
    zoo.bert_files(tmp_path, "4", added=[zoo.E1])
    zoo.write(tmp_path, "vocab.txt", zoo.vocab_text([*zoo.UNCASED, "[E1]"]))  # the same ids, said twice
    assert ids_of(tmp_path, "[E1]") == [SIZE]


@pytest.mark.parametrize("setting", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_a_setting_that_tokenizer_json_alone_states(tmp_path, setting):
    arguments = {"do_lower_case": "lower", "strip_accents": "strip", "tokenize_chinese_chars": "chinese"}
    zoo.bert_files(tmp_path, "5", **{arguments[setting]: False})
    stated = read(tmp_path / "tokenizer_config.json")
    load_tokenizer(tmp_path)
    zoo.write(tmp_path, "tokenizer_config.json", {name: x for name, x in stated.items() if name != setting})
    assert f"tokenizer_config.json: expected {setting}: tokenizer.json has false" in refusal(tmp_path)
    # Both versions of Transformers take what is stated.
    zoo.write(tmp_path, "tokenizer_config.json", stated | {setting: True})
    content = json.loads(load_tokenizer(tmp_path).to_str())["normalizer"]
    names = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
    assert content[names.get(setting, setting)] is True


def test_another_pipeline_than_the_class_s(tmp_path):
    zoo.generic(tmp_path, zoo.split_wordpiece(), class_name="BertTokenizer")
    assert "expected the pipeline of BertTokenizer" in refusal(tmp_path)


def test_another_pipeline_without_a_class_is_read_as_it_is(tmp_path, capsys):
    zoo.write(tmp_path, "tokenizer.json", zoo.unigram().to_str())
    text = "the film, was SUPERB 映画"
    assert load_tokenizer(tmp_path).encode(text).ids == zoo.unigram().encode(text).ids
    assert "tokenizer.json: not BERT's own pipeline; read as it is" in capsys.readouterr().err


def test_a_generic_class_needs_tokenizer_json(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert f"{tmp_path}/tokenizer.json: expected it, as tokenizer_config.json has tokenizer_class" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "vocab.json"])
def test_a_vocabulary_in_another_format(tmp_path, name):
    zoo.write(tmp_path, name, {})
    message = refusal(tmp_path)
    assert f"expected the checkpoint's vocab.txt or tokenizer.json, found {name}; write tokenizer.json: python -c " in (
        message
    )
    assert message.endswith(f"save_pretrained(f)' {tmp_path}")


@pytest.mark.parametrize("layout", ["4", "5"])
def test_a_tokenizer_json_that_pads_and_truncates(tmp_path, layout):
    zoo.bert_files(tmp_path, layout)
    content = read(tmp_path / "tokenizer.json")
    content["padding"] = {
        **{"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    }
    content["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    zoo.write(tmp_path, "tokenizer.json", content)
    assert load_tokenizer(tmp_path).encode("film " * 20).ids == [2, *[zoo.UNCASED.index("film")] * 20, 3]


ODD_STEPS = {
    "quotes": ("normalizer", {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}),
    "sigma": ("normalizer", {"type": "Replace", "pattern": {"String": "ς"}, "content": "s"}),
}


@pytest.mark.parametrize("name", ODD_STEPS)
def test_a_step_that_the_class_lacks_is_kept_and_reported(tmp_path, name, capsys):
    part, step = ODD_STEPS[name]
    content = json.loads(zoo.unigram().to_str()) | {part: step}
    zoo.generic(tmp_path, zoo.Tokenizer.from_str(json.dumps(content)), zoo.ROBERTA_NAMES, "XLMRobertaTokenizer")
    expected = zoo.Tokenizer.from_str(json.dumps(content))
    text = "``a film'' ςa"
    assert load_tokenizer(tmp_path).encode(text).ids == expected.encode(text).ids != zoo.unigram().encode(text).ids
    assert f"tokenizer.json: {part} as in the file, as Transformers 4 reads it" in capsys.readouterr().err


def test_the_dropout_of_a_model_is_not_applied(tmp_path, capsys):
    content = json.loads(zoo.byte_bpe().to_str())
    content["model"]["dropout"] = 0.9
    zoo.generic(tmp_path, zoo.Tokenizer.from_str(json.dumps(content)), zoo.ROBERTA_NAMES)
    text = "the film the film"
    assert load_tokenizer(tmp_path).encode(text).ids == zoo.byte_bpe().encode(text).ids
    assert "the model's dropout of 0.9 is not applied" in capsys.readouterr().err


def test_two_names_of_readable_classes(tmp_path):
    zoo.generic(tmp_path, zoo.word_level())
    edit(tmp_path, "config.json", tokenizer_class="XLMRobertaTokenizer")
    load_tokenizer(tmp_path)


def test_settings_of_a_japanese_tokenizer_without_its_class(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", word_tokenizer_type="mecab")
    assert "word_tokenizer_type: expected none, found 'mecab': a setting of BertJapaneseTokenizer" in refusal(tmp_path)


def test_a_byte_order_mark_in_a_vocabulary(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "vocab.txt").read_bytes())
    assert "vocab.txt: expected UTF-8 without a byte order mark, found one" in refusal(tmp_path)


def test_a_blank_last_line_counts_before_added_tokens(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", additional_special_tokens=["[E1]"])
    zoo.write(tmp_path, "vocab.txt", zoo.vocab_text(zoo.UNCASED) + "\n")
    assert ids_of(tmp_path, "[E1]") == [SIZE + 1]
    transformers = pytest.importorskip("transformers")
    assert transformers.BertTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids("[E1]") == SIZE + 1


def test_a_named_token_of_transformers_5(tmp_path):
    zoo.bert_files(tmp_path, "5", added=[zoo.E1])
    edit(tmp_path, "tokenizer_config.json", e1_token="[E1]")
    assert ids_of(tmp_path, "[E1]") == [SIZE]


def test_a_small_vocabulary_of_another_class_is_no_traceback(tmp_path):
    tokenizer = zoo.Tokenizer(zoo.models.Unigram([("<unk>", 0.0)], unk_id=0))
    zoo.generic(tmp_path, tokenizer, zoo.ROBERTA_NAMES, "XLMRobertaTokenizer")
    assert "expected the pipeline of XLMRobertaTokenizer" in refusal(tmp_path)


def test_a_prefix_space_that_two_files_state_differently(tmp_path, capsys):
    zoo.generic(tmp_path, zoo.byte_bpe(True), zoo.ROBERTA_NAMES)
    assert load_tokenizer(tmp_path).encode("film").tokens[1] == "Ġfilm"
    assert "add_prefix_space is true, in tokenizer_config.json false" in capsys.readouterr().err


# Token types, truncation and special tokens in texts


@pytest.mark.parametrize("processor", ["template", "BertProcessing", "ByteLevel", "none", "Sequence"])
def test_checkpoints_without_token_types(tmp_path, processor):
    tokenizer = zoo.word_level()
    cls, sep = (("[CLS]", 2), ("[SEP]", 3))
    replacements = {
        "BertProcessing": zoo.processors.BertProcessing(sep, cls),
        "ByteLevel": zoo.processors.ByteLevel(),
        "none": None,
        "Sequence": zoo.processors.Sequence([zoo.processors.ByteLevel(), tokenizer.post_processor]),
    }
    if processor in replacements:
        tokenizer.post_processor = replacements[processor]
    expected = tokenizer.encode("the film", "a film")
    zoo.generic(tmp_path, tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    found = load_tokenizer(tmp_path).encode("the film", "a film")
    assert (found.ids, found.type_ids) == (expected.ids, expected.type_ids)
    assert any(found.type_ids)
    edit(tmp_path, "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    found = load_tokenizer(tmp_path).encode("the film", "a film")
    assert (found.ids, found.type_ids) == (expected.ids, [0] * len(expected.ids))


def test_truncation_at_the_start_is_reported(tmp_path, capsys):
    zoo.bert_files(tmp_path, "vocab")
    edit(tmp_path, "tokenizer_config.json", truncation_side="left")
    load_tokenizer(tmp_path)
    assert "texts are truncated at their start; here they are truncated at their end" in capsys.readouterr().err


def test_special_tokens_in_a_text_may_be_split(tmp_path):
    zoo.bert_files(tmp_path, "vocab")
    assert ids_of(tmp_path, "[CLS]") == [2]
    edit(tmp_path, "tokenizer_config.json", split_special_tokens=True)
    assert 2 not in ids_of(tmp_path, "[CLS]")


def test_files_of_tokenizers_are_small(tmp_path):
    zoo.bert_files(tmp_path, "4")
    for name in ("special_tokens_map.json", "added_tokens.json"):
        shutil.copy(tmp_path / "tokenizer.json", tmp_path / name)
        (tmp_path / name).write_bytes(b" " * (2**23 + 1))
        assert f"{name}: expected at most 8,388,608 bytes, found more" in refusal(tmp_path)
        (tmp_path / name).unlink()
