"""Prefixes that wrappers leave before an encoder's tensors, and what else a checkpoint may hold."""

from functools import partial

import numpy as np
import pytest
from checkpoints import GOLDEN, MLM, NSP, TENSORS, assert_holds, assert_holds_all, refusal, write_checkpoint

from bertjax.pretrained import load_pretrained

ONE = np.zeros(1, np.float32)
CLASSIFIER = {"classifier.weight": np.ones((5, 12), np.float32), "classifier.bias": np.ones(5, np.float32)}
SENTENCES = GOLDEN["config"] | {"architectures": ["BertForSequenceClassification"]}


@pytest.fixture
def write(tmp_path):
    return partial(write_checkpoint, tmp_path)


def under(prefix, tensors=TENSORS):
    return {prefix + name: x for name, x in tensors.items()}


WRAPPERS = ["module.", "_orig_mod.", "model.", "base_model.model.", "auto_model.", "0.auto_model.", "encoder."]
WRAPPERS += ["backbone.", "module._orig_mod.", "net.text.encoder."]


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_usual_prefixes_without_a_line(write, capsys, prefix):
    assert_holds(load_pretrained(write(under(prefix)))[1], TENSORS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("base", ["", "bert."])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_s_prefix_with_a_line(write, capsys, wrapper, base):
    folder = write(under(wrapper + base) | {f"{wrapper}{base}embeddings.position_ids": np.arange(10)[None]})
    assert_holds(load_pretrained(folder)[1], TENSORS)
    expected = f"the encoder's tensors begin with {wrapper + base!r}; read without that prefix"
    assert capsys.readouterr().err == f"{folder}: {expected}\n"


@pytest.mark.parametrize("base", ["", "bert."])
@pytest.mark.parametrize("wrapper", ["module.", "module._orig_mod.", "base_model.model."])
def test_heads_beside_a_wrapped_encoder(write, wrapper, base):
    _, params = load_pretrained(write(under(wrapper + base) | under(wrapper, MLM | NSP | CLASSIFIER), SENTENCES))
    assert_holds_all(params)
    np.testing.assert_array_equal(params["classifier"]["bias"], CLASSIFIER["classifier.bias"])


def test_heads_of_a_wrapped_model_beside_a_loss(write, capsys):
    """As PyTorch Lightning saves them."""
    folder = write(under("model.bert.") | under("model.", CLASSIFIER) | {"loss.weight": ONE}, SENTENCES)
    _, params = load_pretrained(folder)
    np.testing.assert_array_equal(params["classifier"]["bias"], CLASSIFIER["classifier.bias"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"{folder}: left out loss.weight: ")


@pytest.mark.parametrize("prefix", ["backbone.", "model.", "model.encoder.", "model.bert."])
def test_a_classifier_that_is_not_where_transformers_puts_it(write, capsys, prefix):
    folder = write(under(prefix) | CLASSIFIER, SENTENCES)
    _, params = load_pretrained(folder)
    assert_holds(params, TENSORS)
    assert "classifier" not in params
    assert f"{folder}: left out classifier.bias, classifier.weight: " in capsys.readouterr().err


# What might change the encoder is an error

WITHIN = ["bert.embeddings_project.weight", "bert.more", "bert.encoder.rel_bias", "bert.embeddings.norm.weight"]
WITHIN += ["bert.encoder.layer.0.adapter.weight", "bert.cls.predictions.bias", "bert.classifier.bias"]


@pytest.mark.parametrize("name", WITHIN)
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_surplus_tensor_within_the_encoder(write, name, wrapper):
    folder = write(under(f"{wrapper}bert.") | {wrapper + name: ONE})
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: surplus: {name.removeprefix('bert.')}"


def test_a_surplus_tensor_within_a_part_of_a_model(write):
    folder = write(under("backbone.") | {"backbone.more": ONE, "head.weight": ONE})
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: surplus: more"


LIKE_ENCODER = ["embeddings.more", "encoder.more", "pooler.more", "embeddings_project.weight", "rel_pos.weight"]
LIKE_ENCODER += ["position.weight", "LayerNorm.weight", "final_norm.weight", "layers.0.weight", "encoder2.weight"]
LIKE_ENCODER += ["relative_attention_bias.weight", "attention.weight"]


@pytest.mark.parametrize("name", LIKE_ENCODER)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_surplus_tensor_that_looks_like_part_of_a_bare_encoder(write, name, prefix):
    folder = write(under(prefix, TENSORS | {name: ONE}))
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: surplus: {name}"


@pytest.mark.parametrize("name", ["prefix_encoder.embedding.weight", "prompt.weight", "task_adapter.weight"])
def test_what_changes_the_encoder_from_outside(write, name):
    folder = write(under("bert.") | {name: ONE})
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: surplus: {name}"


# Other encoders

FAMILIES = ["roberta", "xlm_roberta", "camembert", "electra", "ernie", "layoutlm", "data2vec_text", "nezha"]
FAMILIES += ["mobilebert", "splinter", "roc_bert", "longformer", "albert", "lilt", "yoso"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_another_family_by_its_prefix(write, family, wrapper):
    prefix = f"{wrapper}{family}."
    folder = write(under(prefix))
    message = refusal(folder)
    assert message.startswith(
        f"{folder}: expected BERT's tensors, found {prefix}embeddings.word_embeddings.weight, of the family "
    )
    assert message.endswith("; config.json must have the model_type of its tensors")


@pytest.mark.parametrize("prefixes", [("student.bert.", "teacher.bert."), ("", "bert."), ("bert_a.", "bert_b.")])
def test_two_encoders(write, prefixes):
    first, second = prefixes
    folder = write(under(first) | under(second))
    assert refusal(folder) == (
        f"{folder}: expected one encoder, found 2, whose tensors begin with {first!r}, {second!r}; save the one to "
        "use as a checkpoint of its own"
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["transformer.layer.0.weight", "transformer.norm.weight"], "2 tensors all beginning with 'transformer.'"),
        (["a.b.c.weight", "a.b.d.weight", "a.b.d.bias"], "3 tensors all beginning with 'a.b.'"),
        (["a.weight", "b.weight"], "2 tensors without a common prefix"),
        (["a", "a.b"], "2 tensors without a common prefix"),
        (["my_embeddings.word_embeddings.weight"], "1 tensor all beginning with 'my_embeddings.word_embeddings.'"),
    ],
)
def test_no_encoder(write, names, found):
    folder = write(dict.fromkeys(names, ONE))
    assert refusal(folder) == (
        f"{folder}: expected a BERT with a tensor embeddings.word_embeddings.weight, found {found}, such as "
        f"{min(names)}; use another folder"
    )


def test_no_tensors(write):
    folder = write({})
    assert "found no tensors; " in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight",
        "base_model.model.bert.encoder.layer.0.attention.self.query.base_layer.weight",
        "base_model.model.classifier.modules_to_save.default.weight",
    ],
)
def test_adapters_that_are_not_merged(write, name):
    folder = write(under("base_model.model.bert.") | {name: ONE})
    assert refusal(folder) == (
        f"{folder}: expected plain weights, found unmerged adapters of PEFT: {name}; load them with peft as they were "
        "saved, then run model.merge_and_unload().save_pretrained(FOLDER)"
    )
