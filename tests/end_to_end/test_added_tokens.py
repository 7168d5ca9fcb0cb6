"""Tokens added to a vocabulary are kept through training, export and convert."""

import numpy as np
import pytest
import zoo

from bertjax.config import RunConfig
from bertjax.pretrained import load_tokenizer
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.training import finetuning

TEXT = "the [E1] film, COVID [E1]dull"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["3", "4", "5"])
def test_added_tokens_are_kept(tmp_path, sst_folder, layout):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    zoo.bert_files(checkpoint, layout, added=[zoo.E1, zoo.COVID])
    size = zoo.size_of(checkpoint)
    rng = np.random.default_rng(0)
    zoo.model(checkpoint, zoo.config_of(rng, size, max_position_embeddings=40), rng)
    config = RunConfig(
        task="sst5", data_dir=str(sst_folder), init_from=str(checkpoint), batch_size=8, max_length=32, max_steps=2
    )
    finetuning.train_and_evaluate(config, tmp_path / "run")
    (exported,) = export(tmp_path / "run", tmp_path / "exported")
    expected = load_tokenizer(checkpoint).encode(TEXT).ids
    assert {size - 2, size - 1} <= set(expected)
    for folder in (tmp_path / "run" / "encoder", exported, convert(tmp_path / "run", tmp_path / "converted")):
        assert load_tokenizer(folder).encode(TEXT).ids == expected
    transformers = pytest.importorskip("transformers")
    assert transformers.AutoTokenizer.from_pretrained(exported)(TEXT)["input_ids"] == expected
