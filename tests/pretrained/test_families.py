"""Every family against Transformers on random weights: outputs, gradients, heads, and there and back."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_encoders import family_encoder
from tiny_families import ARGUMENTS, batch, drawn, head_class, randomized

from bertjax import classify, encode
from bertjax.models.families import FAMILIES, build_encoder, config_from_dict
from bertjax.pretrained import load_pretrained
from bertjax.pretrained.load import read_checkpoint
from bertjax.pretrained.param_names import tensor_names

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
NAMES = [name for name in FAMILIES if name != "bert"]
FAST = 2
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= FAST)) for seed in range(12)]


def assert_near(found, expected, tolerance):
    scale = max(np.abs(expected).max(), 1e-30)
    assert np.abs(np.asarray(found) - expected).max() <= tolerance * scale


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_classifier(name, seed, tmp_path):
    model = randomized(head_class(name, "ForSequenceClassification")(drawn(name, seed)), seed)
    model.save_pretrained(tmp_path)
    config, params = load_pretrained(tmp_path)
    inputs = batch(config, seed)
    tensors = {key: torch.from_numpy(x) for key, x in inputs.items() if key in ARGUMENTS[name]}
    expected = model(**tensors, output_hidden_states=True)
    hidden, pooled = encode(params, config, **inputs)
    real = inputs["attention_mask"] == 1
    assert_near(hidden[real], expected.hidden_states[-1].detach().numpy()[real], 2e-5)
    assert_near(classify(params, config, **inputs), expected.logits.detach().numpy(), 2e-5)
    assert pooled.shape == (len(real), config.hidden_size)

    weights = np.random.default_rng(seed).normal(size=expected.logits.shape).astype(np.float32)
    (expected.logits * torch.from_numpy(weights)).sum().backward()
    theirs = dict(model.named_parameters())
    bert = build_encoder(config, {"own": params["classifier"]["bias"].shape[0]})

    def loss(tree):
        run = lambda m: m.logits(m.embed(inputs["input_ids"], inputs["token_type_ids"]), jnp.asarray(real), "own")  # noqa: E731
        return jnp.sum(bert.apply({"params": tree}, method=run) * weights)

    grads = jax.jit(jax.grad(loss))(params | {"head_own": params["classifier"]})
    names = tensor_names(config)
    prefix = FAMILIES[name].prefix
    for path in (
        ("embeddings", "word", "embedding"),
        ("layer_0", "qkv" if name == "modernbert" else "value", "kernel"),
        ("embeddings", "norm", "affine", "scale"),
    ):
        found = grads
        for part in path:
            found = found[part]
        grad = theirs[f"{prefix}{names[path]}"].grad.numpy()
        found = np.array(found)
        if path[1] == "word":  # Transformers gives the row of padding no gradient
            found[config.pad_token_id] = grad[config.pad_token_id]
        assert_near(found.T if path[-1] == "kernel" else found, grad, 1e-4)


@pytest.mark.parametrize("end", ["Model", "ForMaskedLM", "ForSequenceClassification"])
@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name, end, tmp_path):
    from families_export import export_without_tokenizer

    model = randomized(head_class(name, end)(drawn(name, 3)), 3)
    model.save_pretrained(tmp_path / "first")
    config, params = read_checkpoint(tmp_path / "first")
    export_without_tokenizer(tmp_path / "first", tmp_path / "second")
    again, params_again = read_checkpoint(tmp_path / "second")
    assert again == config
    chex.assert_trees_all_equal(params_again, params)
    auto = {"Model": "AutoModel"}.get(end, f"AutoModel{end}")
    back, info = getattr(transformers, auto).from_pretrained(tmp_path / "second", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, x in model.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[key].numpy(), x.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_the_masked_language_model(name, tmp_path):
    model = randomized(head_class(name, "ForMaskedLM")(drawn(name, 5)), 5)
    model.save_pretrained(tmp_path)
    config, params = load_pretrained(tmp_path)
    inputs = batch(config, 5)
    tensors = {key: torch.from_numpy(x) for key, x in inputs.items() if key in ARGUMENTS[name]}
    with torch.no_grad():
        expected = model(**tensors).logits.numpy()
    hidden, _ = encode(params, config, **inputs)
    run = lambda m: m.mlm(hidden, m.embeddings.word.embedding)  # noqa: E731
    found = build_encoder(config, has_mlm=True).apply({"params": params}, method=run)
    real = inputs["attention_mask"] == 1
    assert_near(found[real], expected[real], 2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("switch", [{"position_embedding_type": "relative_key"}, {"is_decoder": True}])
def test_switches_that_are_not_computed(name, switch):
    with pytest.raises(Exception, match=next(iter(switch))) as info:
        config_from_dict(drawn(name, 0).to_dict() | switch)
    assert "\n" not in str(info.value)


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(Exception, match="camembert") as info:
        config_from_dict(json.loads('{"model_type": "gpt2"}'))
    assert all(name in str(info.value) for name in FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_classify_refuses_padding_on_the_left(name):
    model, params = family_encoder(name, {})
    params = params | {"classifier": {"kernel": jnp.ones((12, 3)), "bias": jnp.ones(3)}}
    ids = np.full((2, 4), 7)
    with pytest.raises(ValueError, match="pad on the right"):
        classify(params, model.config, ids, np.array([[1, 1, 1, 0], [0, 1, 1, 1]]))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"modernbert"}))
def test_an_untied_decoder_that_is_missing(name, tmp_path, capsys):
    model = head_class(name, "ForMaskedLM")(drawn(name, 3))
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert "mlm" in load_pretrained(tmp_path)[1]
    (tmp_path / "config.json").write_text(json.dumps(values | {"tie_word_embeddings": False}))
    assert "mlm" not in load_pretrained(tmp_path)[1]
    assert "tie_word_embeddings is false, and" in capsys.readouterr().err


def test_modernbert_starts_a_sentence_head_as_transformers_does(tmp_path):
    model = randomized(transformers.ModernBertForMaskedLM(drawn("modernbert", 3)), 3)
    model.save_pretrained(tmp_path)
    theirs = transformers.ModernBertForSequenceClassification.from_pretrained(tmp_path).state_dict()
    _, params = load_pretrained(tmp_path)
    np.testing.assert_array_equal(params["pooler"]["dense"]["kernel"].T, theirs["head.dense.weight"].numpy())
    np.testing.assert_array_equal(params["pooler"]["norm"]["affine"]["scale"], theirs["head.norm.weight"].numpy())
