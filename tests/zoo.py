"""Writes small checkpoint folders of many kinds: tokenizers, file layouts of Transformers 3 to 5, configs, heads.

Needs neither Transformers nor PyTorch, so that the same folders can be read by any version of them.
"""

import json
import string

import numpy as np
import safetensors.numpy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertjax.models.config import BertConfig
from bertjax.pretrained import tensor_shapes

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NAMES = {
    name: f"[{name.removesuffix('_token').upper()}]"
    for name in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
}
ROBERTA_NAMES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
WORDS = ["the", "film", "was", "superb", "dull", "movie", "un", "##aff", "##able", "映", "画", "##画", "한국어", "кино"]
LETTERS = [*string.ascii_lowercase, *string.digits, *"éüßñ.,!?'-_@:/#%&=()[]<>\"“”—…½"]
UNCASED = [*SPECIAL, *WORDS, *LETTERS, *(f"##{x}" for x in LETTERS[:40]), "[unused1]", "<S>", "<T>"]
CASED = [*UNCASED, *string.ascii_uppercase, *(f"##{x}" for x in string.ascii_uppercase), "Film", "The", "É"]
CORPUS = ["the film was superb", "a dull movie, wasn't it?", "映画は最高 한국어 кино", "un##aff café 3.14 [x] <y>"] * 4


def flags(content, special=True, **changes):
    """A token as tokenizer files write it."""
    usual = {"lstrip": False, "rstrip": False, "normalized": not special, "single_word": False, "special": special}
    return {"content": content} | usual | changes


def write(folder, name, value):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    (folder / name).write_text(text, encoding="utf-8")


def numbered(pieces):
    return {piece: i for i, piece in enumerate(pieces)}


# Tokenizers as the library builds them


def bert(vocabulary=UNCASED, names=NAMES, *, lower=True, strip=None, chinese=True):
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token=names["unk_token"])
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip, lowercase=lower
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return with_template(tokenizer, names)


def with_template(tokenizer, names, second_type=1):
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(names.values())])
    cls, sep = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:{second_type} {sep}:{second_type}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return tokenizer


def split_wordpiece(lower=True):
    """A WordPiece without BERT's treatment of punctuation, accents and Chinese characters."""
    tokenizer = Tokenizer(models.WordPiece(numbered(UNCASED), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase() if lower else normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return with_template(tokenizer, NAMES)


def unigram(names=ROBERTA_NAMES, scheme="always"):
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{x}", -2.0 - i / 10) for i, x in enumerate(["the", "film", "was", "a", "superb", "映画"])]
    pieces += [(x, -5.0 - i / 100) for i, x in enumerate(["▁", *LETTERS, *string.ascii_uppercase])] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*("<s>", "<pad>", "</s>", "<unk>"), AddedToken("<mask>", lstrip=True, special=True)])
    return roberta_template(tokenizer, names)


def roberta_template(tokenizer, names):
    cls, sep = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, sep, "$B", sep],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return tokenizer


def byte_bpe(add_prefix_space=False, names=ROBERTA_NAMES):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "f"), ("i", "l"), ("Ġf", "il"), ("Ġfil", "m"), ("t", "h"), ("Ġ", "th"), ("Ġth", "e")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *("".join(pair) for pair in merges), "<mask>"]
    bpe = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, merges, continuing_subword_prefix="", end_of_word_suffix=""
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*("<s>", "<pad>", "</s>", "<unk>"), AddedToken("<mask>", lstrip=True, special=True)])
    cls, sep = ((token, tokenizer.token_to_id(token)) for token in (names["cls_token"], names["sep_token"]))
    tokenizer.post_processor = processors.RobertaProcessing(
        sep, cls, trim_offsets=True, add_prefix_space=add_prefix_space
    )
    return tokenizer


def metaspace_bpe():
    """A BPE as SentencePiece trains it, with BERT's special tokens."""
    merges = [("▁", "f"), ("i", "l"), ("▁f", "il"), ("▁fil", "m")]
    pieces = [*SPECIAL, "▁", *LETTERS, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="[UNK]", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    return with_template(tokenizer, NAMES)


def word_level():
    tokenizer = Tokenizer(models.WordLevel(numbered(UNCASED), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return with_template(tokenizer, NAMES)


# Layouts of a tokenizer's files


def vocab_text(vocabulary):
    return "".join(f"{piece}\n" for piece in vocabulary)


def generic(folder, tokenizer, names=NAMES, class_name="PreTrainedTokenizerFast", **settings):
    """As `PreTrainedTokenizerFast(tokenizer_object=...)` is saved."""
    write(folder, "tokenizer.json", tokenizer.to_str())
    write(folder, "tokenizer_config.json", {"tokenizer_class": class_name, **names, **settings})


def bert_files(folder, layout, vocabulary=UNCASED, names=NAMES, added=(), *, lower=True, strip=None, chinese=True):
    """BERT's tokenizer in one of the layouts in LAYOUTS; `added` is a list of `flags`, which follow the vocabulary."""
    tokenizer = bert(vocabulary, names, lower=lower, strip=strip, chinese=chinese)
    ids = {token["content"]: len(vocabulary) + i for i, token in enumerate(added)}
    tokenizer.add_tokens([AddedToken(**token) for token in added])
    settings = {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    extra = [token["content"] for token in added if token["special"]]
    decoder = {str(vocabulary.index(token)): flags(token) for token in names.values()}
    decoder |= {str(ids[token["content"]]): token for token in added}
    if layout in ("3", "4"):
        write(folder, "vocab.txt", vocab_text(vocabulary))
        write(folder, "special_tokens_map.json", names | ({"additional_special_tokens": extra} if extra else {}))
        if ids:
            write(folder, "added_tokens.json", ids)
    if layout == "3":  # before 4.34: no added_tokens_decoder
        write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **settings, **names})
    if layout == "4":
        write(folder, "tokenizer.json", tokenizer.to_str())
        more = {"additional_special_tokens": extra, "added_tokens_decoder": decoder, "model_max_length": 512}
        write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **settings, **names, **more})
    if layout == "5":
        write(folder, "tokenizer.json", tokenizer.to_str())
        more = {"extra_special_tokens": extra, "backend": "tokenizers", "is_local": True}
        write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **settings, **names, **more})
    if layout == "vocab":
        write(folder, "vocab.txt", vocab_text(vocabulary))
        write(folder, "tokenizer_config.json", settings | {"added_tokens_decoder": decoder} if added else settings)
    if layout == "json":
        write(folder, "tokenizer.json", tokenizer.to_str())


LAYOUTS = ("3", "4", "5", "vocab", "json")


# Models


def config_of(rng, vocab_size, **changes):
    heads = int(rng.integers(1, 4))
    values = {
        "vocab_size": vocab_size,
        "hidden_size": heads * int(rng.integers(2, 6)),
        "num_hidden_layers": int(rng.integers(1, 3)),
        "num_attention_heads": heads,
        "intermediate_size": int(rng.integers(5, 24)),
        "hidden_act": str(rng.choice(["gelu", "gelu_new", "relu"])),
        "max_position_embeddings": int(rng.integers(40, 90)),
        "type_vocab_size": 2,
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5])),
    }
    return BertConfig(**values | changes)


def model(folder, config, rng, *, architecture="BertModel", prefix=None, changes=None):
    """A random model with the head of an architecture; with a prefix instead of "bert." for the encoder's tensors."""
    d = config.hidden_size
    shapes = {f"encoder/{name}": shape for name, shape in tensor_shapes(config).items()}
    heads = {
        "BertForSequenceClassification": {"classifier.weight": (3, d), "classifier.bias": (3,)},
        "BertForTokenClassification": {"classifier.weight": (3, d), "classifier.bias": (3,)},
        "BertForMultipleChoice": {"classifier.weight": (1, d), "classifier.bias": (1,)},
        "BertForQuestionAnswering": {"qa_outputs.weight": (2, d), "qa_outputs.bias": (2,)},
        "BertForNextSentencePrediction": {"cls.seq_relationship.weight": (2, d), "cls.seq_relationship.bias": (2,)},
        "BertForMaskedLM": {
            "cls.predictions.transform.dense.weight": (d, d),
            "cls.predictions.transform.dense.bias": (d,),
            "cls.predictions.transform.LayerNorm.weight": (d,),
            "cls.predictions.transform.LayerNorm.bias": (d,),
            "cls.predictions.bias": (config.vocab_size,),
        },
    }
    if architecture in ("BertForTokenClassification", "BertForMaskedLM", "BertForQuestionAnswering"):
        shapes = {name: shape for name, shape in shapes.items() if "pooler" not in name}
    if prefix is None:
        prefix = "" if architecture == "BertModel" else "bert."
    names = {f"{prefix}{name.removeprefix('encoder/')}": shape for name, shape in shapes.items()}
    wrapper = prefix.removesuffix("bert.")
    names |= {f"{wrapper}{name}": shape for name, shape in heads.get(architecture, {}).items()}
    tensors = {name: (rng.normal(size=shape) * 0.3).astype(np.float32) for name, shape in names.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = {"model_type": "bert", "architectures": [architecture], **vars(config)}
    if architecture.endswith("Classification"):
        values |= {"id2label": {"0": "bad", "1": "so-so", "2": "good"}, "label2id": {"bad": 0, "so-so": 1, "good": 2}}
    write(folder, "config.json", values | (changes or {}))


def size_of(folder):
    """Number of ids that a folder's tokenizer files name."""
    ids = [-1]
    if (folder / "vocab.txt").exists():
        ids.append(len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()) - 1)
    if (folder / "tokenizer.json").exists():
        ids += Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True).values()
    if (folder / "added_tokens.json").exists():
        ids += json.loads((folder / "added_tokens.json").read_text()).values()
    if (folder / "tokenizer_config.json").exists():
        ids += map(int, json.loads((folder / "tokenizer_config.json").read_text()).get("added_tokens_decoder", {}))
    return max(*ids, 8) + 1


E1, COVID = flags("[E1]"), flags("covid", special=False)
ODD = [
    flags("[E1]", lstrip=True),
    flags("covid", False, single_word=True),
    flags("Éa", False),
    flags("映画", False, rstrip=True),
]

BOTH = [E1, COVID]
NO_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}
TYPES = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}

# Each writes a tokenizer's files. The second word says what comes of it: "equal" to any version of Transformers that
# reads it; "warned": versions of Transformers differ, and a warning says so; or "refused".
TOKENIZERS = {
    **{f"bert, layout {x}": (lambda f, x=x: bert_files(f, x), "equal") for x in LAYOUTS},
    **{f"bert cased, layout {x}": (lambda f, x=x: bert_files(f, x, CASED, lower=False), "equal") for x in "345"},
    **{
        f"bert with added tokens, {x}": (lambda f, x=x: bert_files(f, x, added=BOTH), "equal")
        for x in ("4", "5", "vocab")
    },
    **{f"bert with odd added tokens, {x}": (lambda f, x=x: bert_files(f, x, added=ODD), "equal") for x in "45"},
    "bert with added tokens, 3": (lambda f: bert_files(f, "3", added=BOTH), "warned"),
    "bert, accents kept, no Chinese": (lambda f: bert_files(f, "4", strip=False, chinese=False), "equal"),
    "bert, cased without accents": (lambda f: bert_files(f, "5", CASED, lower=False, strip=True), "equal"),
    "bert cased, tokenizer.json alone": (lambda f: bert_files(f, "json", CASED, lower=False), "refused"),
    "bert cased, vocab.txt alone": (lambda f: write(f, "vocab.txt", vocab_text(CASED)), "warned"),
    "split": (lambda f: generic(f, split_wordpiece(), **TYPES), "equal"),
    "split, class of 4": (lambda f: generic(f, split_wordpiece()), "warned"),
    "split, class of 5": (lambda f: generic(f, split_wordpiece(False), class_name="TokenizersBackend"), "equal"),
    "split as BERT's": (lambda f: generic(f, split_wordpiece(), class_name="BertTokenizer"), "refused"),
    "unigram": (lambda f: generic(f, unigram(), ROBERTA_NAMES), "equal"),
    "unigram as BERT's": (lambda f: generic(f, unigram(), class_name="BertTokenizer"), "refused"),
    "unigram without a class": (lambda f: write(f, "tokenizer.json", unigram().to_str()), "warned"),
    "unigram as XLM-R's": (lambda f: generic(f, unigram(), ROBERTA_NAMES, "XLMRobertaTokenizer"), "equal"),
    "odd unigram as XLM-R's": (
        lambda f: generic(f, unigram(scheme="never"), ROBERTA_NAMES, "XLMRobertaTokenizer"),
        "refused",
    ),
    "byte BPE": (lambda f: generic(f, byte_bpe(), ROBERTA_NAMES), "equal"),
    "byte BPE with a space": (lambda f: generic(f, byte_bpe(True), ROBERTA_NAMES, add_prefix_space=True), "equal"),
    "byte BPE with a space, unstated": (lambda f: generic(f, byte_bpe(True), ROBERTA_NAMES), "warned"),
    "byte BPE as RoBERTa's": (lambda f: generic(f, byte_bpe(), ROBERTA_NAMES, "RobertaTokenizer"), "equal"),
    "odd byte BPE as RoBERTa's": (
        lambda f: generic(f, byte_bpe(True), ROBERTA_NAMES, "RobertaTokenizerFast"),
        "refused",
    ),
    "SentencePiece BPE": (lambda f: generic(f, metaspace_bpe(), **TYPES), "equal"),
    "word level": (lambda f: generic(f, word_level(), **NO_TYPES), "equal"),
    "Japanese": (lambda f: generic(f, bert(), class_name="BertJapaneseTokenizer"), "refused"),
    "no types": (lambda f: generic(f, bert(), class_name="DistilBertTokenizer", do_lower_case=True), "equal"),
}


def camembert():
    """CamemBERT's vocabulary: fairseq's four tokens first, then those that are used."""
    content = json.loads(unigram().to_str())
    names = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    kept = [(piece, score) for piece, score in content["model"]["vocab"] if piece not in (*names, "<mask>")]
    pieces = [*((name, 0.0) for name in names), *kept, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.add_special_tokens([*names, AddedToken("<mask>", lstrip=True, special=True)])
    return roberta_template(tokenizer, ROBERTA_NAMES)


def mpnet():
    """MPNet's: BERT's pieces with RoBERTa's special tokens and template."""
    pieces = ["<s>", "<pad>", "</s>", "[UNK]", *UNCASED[5:], "<mask>"]
    tokenizer = bert(pieces, MPNET_NAMES)
    cls, sep = ((token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    return tokenizer


def modernbert():
    """ModernBERT's: byte-level BPE with BERT's special tokens, which follow the pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "f"), ("i", "l"), ("Ġf", "il"), ("Ġfil", "m"), ("t", "h"), ("Ġ", "th"), ("Ġth", "e")]
    pieces = [*alphabet, *("".join(pair) for pair in merges), *SPECIAL]
    tokenizer = Tokenizer(models.BPE(numbered(pieces), merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL[:-1], AddedToken("[MASK]", lstrip=True, special=True)])
    return with_template(tokenizer, NAMES)


def deberta():
    """DeBERTa-v2's, as Transformers 5 builds it."""
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    return deberta_unigram(spaces, normalizers.NFC(), normalizers.Strip(left=False, right=True))


def deberta_4():
    """DeBERTa-v2's, as Transformers 4 converts it from a SentencePiece model without a map of characters."""
    return deberta_unigram(normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " "))


def deberta_unigram(*steps):
    pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    pieces += json.loads(unigram().to_str())["model"]["vocab"][4:-1]
    tokenizer = Tokenizer(models.Unigram([tuple(x) for x in pieces], unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(list(steps))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    return with_template(tokenizer, DEBERTA_NAMES)


DEBERTA_NAMES = {"bos_token": "[CLS]", "eos_token": "[SEP]", **NAMES}
MPNET_NAMES = ROBERTA_NAMES | {"unk_token": "[UNK]"}
FAMILY_TOKENIZERS = {
    "electra": (bert, NAMES, "ElectraTokenizer"),
    "distilbert": (bert, NAMES, "DistilBertTokenizer"),
    "mpnet": (mpnet, MPNET_NAMES, "MPNetTokenizer"),
    "roberta": (byte_bpe, ROBERTA_NAMES, "RobertaTokenizer"),
    "xlm-roberta": (unigram, ROBERTA_NAMES, "XLMRobertaTokenizer"),
    "deberta-v2": (deberta, DEBERTA_NAMES, "DebertaV2Tokenizer"),
    "camembert": (camembert, ROBERTA_NAMES, "CamembertTokenizer"),
    "modernbert": (modernbert, NAMES | NO_TYPES, "PreTrainedTokenizerFast"),
}
"""Of each family: the tokenizer, its special tokens and other settings, and its class."""


def family_tokenizer(folder, family, *, is_stated):
    """The files of a family's tokenizer, with its class in tokenizer_config.json or without."""
    build, names, class_name = FAMILY_TOKENIZERS[family]
    write(folder, "tokenizer.json", build().to_str())
    stated = {"tokenizer_class": class_name} if is_stated else {}
    write(folder, "tokenizer_config.json", stated | names)


def draw(folder, seed):
    """Writes a folder at random: a tokenizer, added tokens, a layout, a change to its files, and a model."""
    rng = np.random.default_rng(seed)
    pick = lambda options: options[int(rng.integers(len(options)))]  # noqa: E731
    folder.mkdir(parents=True, exist_ok=True)
    what = []
    if rng.random() < 0.6:
        vocabulary, lower = (UNCASED, True) if rng.random() < 0.6 else (CASED, False)
        names = NAMES
        if rng.random() < 0.3:
            vocabulary, names = ["<s>", "</s>", *vocabulary], NAMES | {"cls_token": "<s>", "sep_token": "</s>"}
        added = [
            random_token(rng, f"{x}{i}")
            for i, x in enumerate(pick([[], ["[E]"], ["[E]", "covid"], ["Éa", "映画", "x-y"]]))
        ]
        layout, strip, chinese = pick(LAYOUTS), pick([None, None, True, False]), bool(rng.random() < 0.8)
        bert_files(folder, layout, vocabulary, names, added, lower=lower, strip=strip, chinese=chinese)
        what.append(f"bert, layout {layout}, {len(added)} added, lower {lower}")
    else:
        name = pick([name for name in TOKENIZERS if not name.startswith("bert")])
        TOKENIZERS[name][0](folder)
        what.append(name)
    for _ in range(int(rng.integers(0, 3))):
        what.append(change(folder, rng, pick))
    size = size_of(folder) + int(pick([0, 0, 1, 7, 200]))
    architecture = pick(ARCHITECTURES)
    prefix = pick([None, None, None, "", "bert.", "module.bert.", "model.", "base_model.model.bert."])
    config = config_of(rng, size, **pick([{}, {}, {"type_vocab_size": 1}, {"type_vocab_size": 3}]))
    model(folder, config, rng, architecture=architecture, prefix=prefix)
    return "; ".join([*what, architecture, f"prefix {prefix}"])


ARCHITECTURES = (
    "BertModel",
    "BertForSequenceClassification",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForMultipleChoice",
    "BertForQuestionAnswering",
    "BertForNextSentencePrediction",
    "BertForMaskedLM",
)


def random_token(rng, content):
    special = bool(rng.random() < 0.5)
    odd = {name: bool(rng.random() < 0.3) for name in ("lstrip", "rstrip", "single_word")}
    return flags(content, special, **odd)


def change(folder, rng, pick):
    """Makes one change to a tokenizer's files, as people do by hand and by script; returns what it did."""
    files = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".txt"))
    kind = pick(["remove", "setting", "setting", "token", "id", "line", "class", "flag"])
    config = json.loads((folder / "tokenizer_config.json").read_text()) if "tokenizer_config.json" in files else {}
    if kind == "remove" and len(files) > 1:
        name = pick(files)
        (folder / name).unlink()
        return f"removed {name}"
    if kind == "setting":
        name = pick(
            ["do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "split_special_tokens"]
        )
        config[name] = pick([True, False, None])
        if config[name] is None:
            del config[name]
        kind = f"{name} is {config.get(name)}"
    elif kind == "token":
        name, token = (
            pick(["cls_token", "sep_token", "mask_token", "bos_token"]),
            pick(["[CLS]", "<s>", "[NEW]", "film", "the"]),
        )
        if "special_tokens_map.json" in files and rng.random() < 0.5:
            values = json.loads((folder / "special_tokens_map.json").read_text())
            write(folder, "special_tokens_map.json", values | {name: token})
            return f"{name} is {token} in special_tokens_map.json"
        config[name] = token
        kind = f"{name} is {token}"
    elif kind == "id" and "added_tokens.json" in files:
        values = json.loads((folder / "added_tokens.json").read_text())
        name = pick(sorted(values))
        write(folder, "added_tokens.json", values | {name: values[name] + int(pick([1, 5, -1]))})
        return f"another id of {name}"
    elif kind == "line" and "vocab.txt" in files:
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        lines[int(rng.integers(6, len(lines)))] = "[other]"
        write(folder, "vocab.txt", vocab_text(lines))
        return "another line in vocab.txt"
    elif kind == "class":
        config["tokenizer_class"] = pick(
            [
                "BertTokenizer",
                "BertTokenizerFast",
                "PreTrainedTokenizerFast",
                "ElectraTokenizer",
                "DistilBertTokenizer",
                None,
            ]
        )
        kind = f"class {config['tokenizer_class']}"
    elif kind == "flag" and config.get("added_tokens_decoder"):
        token = config["added_tokens_decoder"][pick(sorted(config["added_tokens_decoder"]))]
        token["normalized"] = not token["normalized"]
        kind = f"normalized of {token['content']}"
    else:
        extra = pick([["[E1]"], ["film"], ["[unused1]"]])
        config[pick(["additional_special_tokens", "extra_special_tokens"])] = extra
        kind = f"extra {extra}"
    write(folder, "tokenizer_config.json", config)
    return kind
