"""Compares what we read from a checkpoint with what Transformers reads, before and after export and convert."""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from bertjax.errors import reason
from bertjax.models.config import BertConfig
from bertjax.models.inference import classify, encode
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.pretrained.load import load_pretrained
from bertjax.pretrained.source import find_run, resolve_checkpoint
from bertjax.pretrained.tokenizer import CheckpointTokenizer, read_tokenizer

TOLERANCE = 2e-5
"""Largest difference of hidden states and logits, relative to their largest magnitude."""
_TEXTS = (
    "",
    " ",
    "a",
    "The film was superb, wasn't it?  Two  spaces!",
    "\ttabs\tand\nlines\r\n and\x0bmore \u2028 \u3000 spaces\u00a0",
    "Caf\u00e9 cafe\u0301 \u00dcN\u0130C\u00d6DE \u00df \u1e9e \ufb01n \u00bd \u2167 na\u00efve \u0130stanbul",
    "\u6620\u753b\u306f\u6700\u9ad8 \u4e2d\u6587\u6d4b\u8bd5 \ud55c\uad6d\uc5b4 \uff21\uff22\u339f",
    "\u0e20\u0e32\u0e1e\u0e22\u0e19\u0e15\u0e23\u0e4c",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0641\u064a\u0644\u0645 \u043a\u0438\u043d\u043e",
    "\U0001f3ac\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2665\ufe0f",
    "fi\x00lm\x07 \x1b[31m \ufffd \ufeff \u200b\u00ad \ue000 \U000f0000 \U0010ffff",
    "\u2026\u201cquoted\u201d\u2014dash\u2013 ' \u2019 \u00ab \u00bf 3.14 1,000 50% a_b-c@d.e http://x.y/z?q=1#f",
    "[CLS] [SEP][MASK] [UNK] [PAD] [mask] [unused1] <s></s><mask> <unk> ##a \u2581a \u0120a",
    "a" * 99 + " " + "b" * 101 + " " + "ab" * 300,
    "the film was dull " * 150,
)
_MAX_INPUTS = 8


class Comparison(NamedTuple):
    """One comparison of ours with theirs.

    Attributes:
      name: what was compared.
      is_equal: None if it could not be compared.
      detail: with what, and how it came out.
    """

    name: str
    is_equal: bool | None
    detail: str


def check_checkpoint(source: str) -> Iterator[Comparison]:
    """Compares token ids, token types, parameters, hidden states and logits.

    Texts are chosen to be hard, and contain each of the checkpoint's added and special tokens. Without Transformers or
    PyTorch, what needs them is reported as not compared.

    Args:
      source: see `load_pretrained`.

    Yields:
      The comparisons, as they are made.

    Raises:
      UserError: the checkpoint is refused.
    """
    folder = resolve_checkpoint(source)
    config, params = load_pretrained(source)
    read = read_tokenizer(folder)
    probe = Probe.of(read.tokenizer, config)
    with tempfile.TemporaryDirectory() as scratch:
        with _quiet():  # reading the source has said it all
            converted = convert(source, Path(scratch) / "converted")
            exported = export(source, Path(scratch) / "exported")
            again = {out: (read_tokenizer(out), load_pretrained(out)[1]) for out in (converted, *exported)}
        yield probe.compare("tokens after convert, read by us", again[converted][0].tokenizer)
        yield _compare_params("parameters after convert", params, again[converted][1])
        is_run = find_run(folder) is not None
        if is_run:
            yield Comparison("tokens", None, "Transformers does not read the folder of a run, only its export")
        else:
            yield _compare_params("parameters after export", params, again[exported[0]][1])
            yield probe.compare_with_transformers("tokens", folder)
            yield from _compare_outputs("", folder, config, params, read, probe)
        for out in exported:
            when = f" after export of {out.name}" if len(exported) > 1 else " after export"
            yield probe.compare(f"tokens{when}, read by us", again[out][0].tokenizer)
            yield probe.compare_with_transformers(f"tokens{when}", out)
            yield from _compare_outputs(when, out, config, again[out][1], again[out][0], probe)


class Probe(NamedTuple):
    """Texts, and their encodings by our tokenizer.

    Attributes:
      texts: a text and None, or a pair.
      ids: token ids of each.
      types: token types of each, as the model looks them up: with a single type, it uses that for both texts.
      max_type: the largest token type of the model.
    """

    texts: Sequence[tuple[str, str | None]]
    ids: Sequence[Sequence[int]]
    types: Sequence[Sequence[int]]
    max_type: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: BertConfig) -> "Probe":
        """Hard texts, with the tokenizer's added tokens and pieces inside, alone and in pairs."""
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        vocabulary = tokenizer.get_vocab()
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)[:: max(1, len(vocabulary) // 200)]
        inside = [f"a {token} b{token}c {token.upper()} {token.lower()},{token}" for token in added[:20]]
        single = [*_TEXTS, *inside, "".join(added), " ".join(piece.removeprefix("##") for piece in pieces)]
        texts = [(text, None) for text in single] + list(zip(single, single[3:] + single[:3], strict=True))
        return cls._encoded(tokenizer, texts, max(config.type_vocab_size, 1) - 1)

    @classmethod
    def _encoded(cls, tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], max_type: int) -> "Probe":
        encodings = [tokenizer.encode(*text) for text in texts]
        return cls(texts, [each.ids for each in encodings], [each.type_ids for each in encodings], max_type)

    def compare(self, name: str, tokenizer: Tokenizer) -> Comparison:
        """With another of our tokenizers."""
        return self._compare(name, self._encoded(tokenizer, self.texts, self.max_type), "")

    def compare_with_transformers(self, name: str, folder: Path) -> Comparison:
        """With `transformers.AutoTokenizer`."""
        try:
            with _quiet():
                import transformers

                tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
                # In batches: of a single call, Transformers drops an empty second text.
                alone = tokenizer([text for text, pair in self.texts if pair is None])
                pairs = [(text, pair) for text, pair in self.texts if pair is not None]
                paired = tokenizer([text for text, _ in pairs], [pair for _, pair in pairs])
        except ImportError:
            return Comparison(name, None, "needs Transformers: pip install transformers")
        except Exception as error:  # of any kind: the folder is somebody's, and not every class is installed
            return Comparison(name, None, f"Transformers cannot read the tokenizer ({reason(error)})")
        ids = [*alone["input_ids"], *paired["input_ids"]]
        # Without token types from the tokenizer, Transformers' models take 0.
        types = [
            row for batch in (alone, paired) for row in batch.get("token_type_ids", map(_zeros, batch["input_ids"]))
        ]
        found = Probe(self.texts, ids, types, self.max_type)
        return self._compare(name, found, f" by Transformers {transformers.__version__}")

    def _compare(self, name: str, found: "Probe", by: str) -> Comparison:
        for i, text in enumerate(self.texts):
            ours, theirs = ([min(each, self.max_type) for each in probe.types[i]] for probe in (self, found))
            for kind, a, b in (("ids", self.ids[i], found.ids[i]), ("token types", ours, theirs)):
                if list(a) != list(b):
                    start = json.dumps([part[:60] for part in text if part is not None], ensure_ascii=False)
                    at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
                    found_here, found_there = (list(row)[at : at + 12] for row in (a, b))
                    return Comparison(
                        name, False, f"{kind} of {start}, from position {at}: {found_here}, but{by} {found_there}"
                    )
        return Comparison(name, True, f"ids and token types{by} of {len(self.texts)} texts and pairs")


def _zeros(row: Sequence[int]) -> list[int]:
    return [0] * len(row)


def _compare_params(name: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Comparison:
    ours, theirs = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (expected, found))
    for path in ours.keys() | theirs.keys():
        if path not in ours or path not in theirs or not np.array_equal(ours[path], theirs[path], equal_nan=True):
            return Comparison(name, False, f"{jax.tree_util.keystr(path)} differs")
    return Comparison(name, True, f"{len(ours)} arrays, bit for bit")


def _compare_outputs(
    when: str,
    folder: Path,
    config: BertConfig,
    params: Mapping[str, Any],
    read: CheckpointTokenizer,
    probe: Probe,
) -> Iterator[Comparison]:
    """Hidden states, and logits where there is a head of sentences, with Transformers' models."""
    ids, mask, types = _inputs(probe, config)
    hidden, _ = encode(params, config, *(jnp.asarray(x) for x in (ids, mask, types)))
    real = mask.astype(bool)
    names = {"AutoModel": f"hidden states{when}"}
    if "classifier" in params:
        names["AutoModelForSequenceClassification"] = f"logits{when}"
    for architecture, name in names.items():
        try:
            with _quiet():
                import torch
                import transformers

                model, loading = getattr(transformers, architecture).from_pretrained(
                    folder, dtype=torch.float32, output_loading_info=True
                )
                inputs = {"input_ids": ids, "attention_mask": mask}
                if read.has_token_types and config.type_vocab_size > 1:
                    inputs["token_type_ids"] = types
                with torch.no_grad():
                    outputs = model.eval()(**{key: torch.from_numpy(x).long() for key, x in inputs.items()})
        except ImportError:
            yield Comparison(name, None, "needs Transformers and PyTorch: pip install torch transformers")
            return
        except Exception as error:
            yield Comparison(name, None, f"Transformers cannot read the model ({reason(error)})")
            continue
        if missing := [key for key in loading["missing_keys"] if "pooler" not in key]:
            yield Comparison(name, None, f"Transformers does not find {sorted(missing)[0]} and {len(missing) - 1} more")
        elif architecture == "AutoModel":
            yield _compare_arrays(name, hidden[real], outputs.last_hidden_state.numpy()[real])
        else:
            logits = classify(params, config, *(jnp.asarray(x) for x in (ids, mask, types)))
            yield _compare_arrays(name, logits, outputs.logits.numpy())


def _inputs(probe: Probe, config: BertConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of texts and pairs, padded: ids, mask and token types, int32 [B, S]."""
    half = len(probe.texts) // 2
    rows = [*range(2, 2 + _MAX_INPUTS // 2), *range(half, half + _MAX_INPUTS // 2)]
    length = min(config.max_length, 128)
    mask, types = np.zeros((2, len(rows), length), np.int32)
    ids = np.full_like(mask, config.pad_token_id)  # from which some families count positions
    for i, row in enumerate(rows):
        n = min(len(probe.ids[row]), length)
        ids[i, :n], types[i, :n], mask[i, : max(n, 1)] = probe.ids[row][:n], probe.types[row][:n], 1
    return ids, mask, np.minimum(types, probe.max_type)


def _compare_arrays(name: str, ours: Any, theirs: np.ndarray) -> Comparison:
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        return Comparison(name, False, f"shape {list(ours.shape)}, by Transformers {list(theirs.shape)}")
    difference = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    return Comparison(
        name,
        bool(difference <= TOLERANCE),
        f"largest difference {difference:.1e} of their scale, limit {TOLERANCE:.0e}",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what Transformers logs and prints: what matters is in the comparison."""
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
