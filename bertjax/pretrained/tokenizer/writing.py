"""Writes a tokenizer so that Transformers 4.57 and 5 both read the same ids and token types back."""

import json
from pathlib import Path

from bertjax.files.atomic import write_json
from bertjax.models.config import BertConfig
from bertjax.pretrained.tokenizer.reading import check_tokenizer_fits, read_tokenizer


def write_tokenizer(target: Path, folder: Path, config: BertConfig) -> None:
    """Writes tokenizer.json and tokenizer_config.json, and vocab.txt for BERT's own tokenizer.

    Any other tokenizer becomes a PreTrainedTokenizerFast, the only class for which Transformers 5 takes tokenizer.json
    as it is.

    Args:
      target: the folder to write to.
      folder: the checkpoint.
      config: its architecture.

    Raises:
      UserError: see `read_tokenizer` and `check_tokenizer_fits`.
    """
    read = read_tokenizer(folder)
    check_tokenizer_fits(read.tokenizer, config, folder)
    settings = {
        "tokenizer_class": "BertTokenizer" if read.is_bert else "PreTrainedTokenizerFast",
        "model_max_length": config.max_length,
        **read.special,
        **read.settings,
    }
    if read.extra:
        settings["additional_special_tokens"] = list(read.extra)
    # With a single token type, Transformers would look up type 1 for a pair's second text.
    has_token_types = read.has_token_types and config.type_vocab_size > 1
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings["model_input_names"] = inputs if has_token_types else [inputs[0], inputs[2]]
    write_json(target / "tokenizer_config.json", settings)
    # Written beside vocab.txt, too, which lacks the added tokens.
    (target / "tokenizer.json").write_text(read.tokenizer.to_str(pretty=True), encoding="utf-8")
    if read.is_bert:
        pieces = json.loads(read.tokenizer.to_str())["model"]["vocab"]
        lines = sorted(pieces, key=pieces.__getitem__)
        if [pieces[piece] for piece in lines] == list(range(len(lines))):
            (target / "vocab.txt").write_text("".join(f"{piece}\n" for piece in lines), encoding="utf-8", newline="\n")
