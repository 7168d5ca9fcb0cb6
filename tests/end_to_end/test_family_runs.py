"""Every family from a random checkpoint through training with SMART, evaluation, prediction and export, and back."""

import pytest
import tiny_families
import zoo

from bertjax.config import RunConfig, SmartConfig
from bertjax.evaluation import evaluate
from bertjax.evaluation.predict_text import predict_lines
from bertjax.pretrained import load_pretrained, load_tokenizer
from bertjax.pretrained.check import check_checkpoint
from bertjax.pretrained.export import export
from bertjax.training import finetuning


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.FAMILY_TOKENIZERS)
def test_train_evaluate_predict_export_and_back(tmp_path, sst_folder, name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    zoo.family_tokenizer(checkpoint, name, is_stated=True)
    architecture = tiny_families.drawn(name, 1)
    architecture.vocab_size, architecture.max_position_embeddings = zoo.size_of(checkpoint), 60
    if name in ("roberta", "xlm-roberta", "camembert"):
        architecture.pad_token_id = 1
    model = tiny_families.head_class(name, "Model")(architecture)
    tiny_families.randomized(model, 1).save_pretrained(checkpoint)
    config = RunConfig(
        task="sst5",
        data_dir=str(sst_folder),
        init_from=str(checkpoint),
        batch_size=8,
        max_length=16,
        max_steps=3,
        smart=SmartConfig(preset="bertjax"),
    )
    finetuning.train_and_evaluate(config, tmp_path / "run")
    evaluate(tmp_path / "run", "dev")
    (tmp_path / "lines").write_text("the film was superb\n")
    (line,) = predict_lines(tmp_path / "run", str(tmp_path / "lines"))
    assert line.endswith("the film was superb")
    (exported,) = export(tmp_path / "run", tmp_path / "exported")
    comparisons = list(check_checkpoint(str(exported)))
    assert not any(each.is_equal is False for each in comparisons), comparisons
    text = "The film was superb, wasn't it?"
    assert load_tokenizer(exported).encode(text).ids == load_tokenizer(checkpoint).encode(text).ids
    again, params = load_pretrained(exported)
    assert again.model_type == name
    assert params["classifier"]["bias"].shape == (5,)
