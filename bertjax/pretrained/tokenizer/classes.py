"""Tokenizer classes of Transformers, built from a vocabulary as Transformers 5 builds them."""

import base64
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

Settings = Mapping[str, Any]
BuildTokenizer = Callable[[Mapping[str, Any], Mapping[str, str], Settings], Tokenizer]
"""From tokenizer.json, special tokens and settings to a tokenizer without added tokens and template."""
BERT_NORMALIZER = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
"""BERT's settings in tokenizer_config.json: their names in tokenizer.json, and their defaults."""


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """A class of tokenizers.

    Attributes:
      name: without "Fast".
      model: kind of its model in tokenizer.json.
      special: contents of its special tokens by name, where no file states others.
      settings: those that change ids, with their defaults.
      has_token_types: whether Transformers passes token types to the model.
      build: as Transformers 5 builds it.
      extra: further special tokens, where no file states any.
      strips_before_mask: whether the mask takes the space before it, where no file states its flags.
      build_older: as Transformers 4 built it from SentencePiece's file, if that is another tokenizer.
      template: from the contents of special tokens to the templates of a text and of a pair.
    """

    name: str
    model: str
    special: Mapping[str, str]
    settings: Settings
    has_token_types: bool
    build: BuildTokenizer
    template: Callable[[Mapping[str, str]], tuple[list[str], list[str]]]
    extra: tuple[str, ...] = ()
    strips_before_mask: bool = False
    build_older: BuildTokenizer | None = None

    @property
    def is_rebuilt_by_bert(self) -> bool:
        """Whether BertTokenizer gives the same ids, and token types if it has them."""
        return self.is_bert and self.template is _bert_template

    @property
    def is_bert(self) -> bool:
        """Whether it is BERT's pipeline, whatever its name."""
        return self.build is _build_bert


def bert_normalizer(settings: Settings, *, clean_text: bool = True) -> normalizers.BertNormalizer:
    """BERT's normaliser with settings from tokenizer_config.json."""
    arguments = {name: settings[key] for key, (name, _) in BERT_NORMALIZER.items()}
    return normalizers.BertNormalizer(clean_text=clean_text, **arguments)


def _build_bert(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(content["model"]["vocab"], unk_token=special["unk_token"]))
    tokenizer.normalizer = bert_normalizer(settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bert_template(special: Mapping[str, str]) -> tuple[list[str], list[str]]:
    cls, sep = special["cls_token"], special["sep_token"]
    return [f"{cls}:0", "$A:0", f"{sep}:0"], [f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"]


def _build_xlm_roberta(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    return _build_unigram(content, settings, unk_id=3)


def _build_camembert(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    names = [piece for piece, _ in content["model"]["vocab"]]
    unknown = special["unk_token"]
    return _build_unigram(content, settings, unk_id=names.index(unknown) if unknown in names else 0)


def _build_unigram(content: Mapping[str, Any], settings: Settings, unk_id: int) -> Tokenizer:
    pieces = [(piece, score) for piece, score in content["model"]["vocab"]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unk_id, byte_fallback=False))
    if (charsmap := _charsmap(content["normalizer"])) is not None:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    scheme = "always" if settings["add_prefix_space"] else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    return tokenizer


def _build_deberta(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    tokenizer = _deberta(content, special, settings)
    lower = [normalizers.Lowercase()] if settings["do_lower_case"] else []
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [*lower, spaces, normalizers.NFC(), normalizers.Strip(left=False, right=True)]
    )
    return tokenizer


def _build_older_deberta(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    tokenizer = _deberta(content, special, settings)
    lower = [normalizers.Lowercase()] if settings["do_lower_case"] else []
    charsmap = _charsmap(content["normalizer"])
    precompiled = [] if charsmap is None else [normalizers.Precompiled(charsmap)]
    tokenizer.normalizer = normalizers.Sequence(
        [*lower, normalizers.Strip(), *precompiled, normalizers.Replace(Regex(" {2,}"), " ")]
    )
    return tokenizer


def _deberta(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    """DeBERTa's tokenizer without its normaliser."""
    pieces = [(piece, score) for piece, score in content["model"]["vocab"]]
    unknown = (special["unk_token"], 0.0)
    unk_id = pieces.index(unknown) if unknown in pieces else 1
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unk_id, byte_fallback=False))
    words = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="always" if settings["add_prefix_space"] else "first"
    )
    split = [pre_tokenizers.Punctuation(behavior="isolated")] if settings["split_by_punct"] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, words])
    return tokenizer


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes | None:
    """SentencePiece's table of characters, the first in a normaliser."""
    for each in (normalizer or {}).get("normalizers", [normalizer or {}]):
        if "precompiled_charsmap" in each:
            return base64.b64decode(each["precompiled_charsmap"])
    return None


def _build_roberta(content: Mapping[str, Any], special: Mapping[str, str], settings: Settings) -> Tokenizer:
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"]]
    bpe = models.BPE(
        content["model"]["vocab"],
        [(left, right) for left, right in merges],
        continuing_subword_prefix="",
        end_of_word_suffix="",
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings["add_prefix_space"])
    return tokenizer


def _roberta_template(special: Mapping[str, str]) -> tuple[list[str], list[str]]:
    cls, sep = special["cls_token"], special["sep_token"]
    return [f"{cls}:0", "$A:0", f"{sep}:0"], [f"{cls}:0", "$A:0", f"{sep}:0", f"{sep}:0", "$B:0", f"{sep}:0"]


def _xlm_roberta_template(special: Mapping[str, str]) -> tuple[list[str], list[str]]:
    return _roberta_template({"cls_token": special["bos_token"], "sep_token": special["eos_token"]})


BERT = TokenizerClass(
    name="BertTokenizer",
    model="WordPiece",
    special={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    settings={key: default for key, (_, default) in BERT_NORMALIZER.items()},
    has_token_types=True,
    build=_build_bert,
    template=_bert_template,
)
_ROBERTA_SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_XLM_ROBERTA = TokenizerClass(
    name="XLMRobertaTokenizer",
    model="Unigram",
    special=_ROBERTA_SPECIAL,
    settings={"add_prefix_space": True},
    has_token_types=False,
    build=_build_xlm_roberta,
    template=_xlm_roberta_template,
)
_CAMEMBERT = dataclasses.replace(
    _XLM_ROBERTA,
    name="CamembertTokenizer",
    build=_build_camembert,
    extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
)
_ROBERTA = TokenizerClass(
    name="RobertaTokenizer",
    model="BPE",
    special=_ROBERTA_SPECIAL,
    settings={"add_prefix_space": False},
    has_token_types=False,
    build=_build_roberta,
    template=_roberta_template,
)
_DEBERTA = TokenizerClass(
    name="DebertaV2Tokenizer",
    model="Unigram",
    special={
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    settings={"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True},
    has_token_types=True,
    build=_build_deberta,
    template=_bert_template,
    build_older=_build_older_deberta,
)
_LIKE_BERT = ("ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer", "SqueezeBertTokenizer")
CLASSES: Mapping[str, TokenizerClass] = {
    kind.name: kind
    for kind in (
        BERT,
        *(dataclasses.replace(BERT, name=name) for name in _LIKE_BERT),
        dataclasses.replace(BERT, name="DistilBertTokenizer", has_token_types=False),
        dataclasses.replace(
            BERT,
            name="MPNetTokenizer",
            special=_ROBERTA_SPECIAL | {"unk_token": "[UNK]"},
            has_token_types=False,
            template=_roberta_template,
            strips_before_mask=True,
        ),
        _XLM_ROBERTA,
        _CAMEMBERT,
        _ROBERTA,
        _DEBERTA,
    )
}
"""The classes that are read, by name."""
PECULIARITIES: Mapping[str, str] = {
    "BertJapaneseTokenizer": "which splits words with MeCab or Sudachi first",
    "KoBertTokenizer": "which is a SentencePiece model",
    "AlbertTokenizer": "which is a SentencePiece model",
    "BertGenerationTokenizer": "which is a SentencePiece model",
    "BertweetTokenizer": "which splits tweets by rules of its own",
    "RoCBertTokenizer": "which also encodes the shape and the sound of characters",
    "FunnelTokenizer": "whose [CLS] has token type 2",
    "SplinterTokenizer": "which adds a [QUESTION] token",
}
"""What classes that are refused do that their vocabulary does not describe."""

_PROBES = (
    "",
    " ",
    "a",
    "The film was superb, wasn't it?",
    "  two  spaces\tand\na line\r\n ",
    "Ünïcödé e\u0301 \u00a0 \u3000x\u200by\u00ad \ufeff",
    "映画は最高 ภาพยนตร์ 영화 кино سينما",
    "🎬👩\u200d👩\u200d👧 \U0010ffff \x00\x07\ufffd",
    "ﬁ ½ ² Ⅷ \uff21\uff22㍿ …“quoted”—dash",
    "▁ ▁▁x Ġ ##a [MASK] <mask> <s>",
    "1234567890 3.14 a_b-c@d.e http://x.y/z?q=1#f",
)


def differing_parts(stored: Tokenizer, built: Tokenizer, *, has_token_types: bool) -> list[str]:
    """Names of the parts of tokenizer.json in which two tokenizers differ so that their ids may differ."""
    ours, theirs = json.loads(built.to_str()), json.loads(stored.to_str())
    parts = [part for part in ("model", "normalizer", "pre_tokenizer") if _plain(ours[part]) != _plain(theirs[part])]
    single, paired = ([tokenizer.encode(*texts) for tokenizer in (built, stored)] for texts in (("",), ("", "")))
    is_same = all(a.ids == b.ids and (a.type_ids == b.type_ids or not has_token_types) for a, b in (single, paired))
    return parts if is_same else [*parts, "post_processor"]


def _plain(part: Any) -> Any:
    """A part without settings that are not set, do not change ids, or wrap a single step."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence":
        steps = part.get("normalizers") or part.get("pretokenizers")
        if steps and len(steps) == 1:
            return _plain(steps[0])
    return {name: value for name, value in part.items() if value not in (None, "", False) and name != "trim_offsets"}


def is_same_on_texts(stored: Tokenizer, built: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids for some hard texts."""
    probes = [(text, None) for text in _PROBES] + list(itertools.pairwise(_PROBES))
    return all(stored.encode(*probe).ids == built.encode(*probe).ids for probe in probes)


def processor(tokenizer: Tokenizer, single: list[str], pair: list[str]) -> processors.TemplateProcessing:
    """The post-processor of two templates; KeyError if a token is not in the vocabulary."""
    tokens = {piece.rpartition(":")[0] for piece in (*single, *pair)} - {"$A", "$B"}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, vocabulary[token]) for token in sorted(tokens)]
    )
