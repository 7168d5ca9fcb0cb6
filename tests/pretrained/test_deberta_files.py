"""DeBERTa's files on the hub: version 3's discriminator, its other head, and both tokenizers of Transformers."""

import json

import numpy as np
import pytest
import tiny_families
import zoo
from tokenizers import normalizers

from bertjax.errors import UserError
from bertjax.pretrained import load_pretrained, load_tokenizer
from bertjax.pretrained.check import Probe
from bertjax.pretrained.encoder_files import read_model_config


def test_the_discriminator_of_version_3(tmp_path, capsys):
    """No architectures, no safetensors, heads that are not read, and positions that are not used."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = tiny_families.drawn("deberta-v2", 2)
    assert not theirs.position_biased_input
    theirs.relative_attention, theirs.legacy = True, True
    model = tiny_families.randomized(transformers.DebertaV2Model(theirs), 2)
    tensors = {f"deberta.{name}": x for name, x in model.state_dict().items()}
    extra = ("mask_predictions.dense.weight", "lm_predictions.lm_head.bias")
    tensors |= {name: torch.zeros(3) for name in extra}
    tensors["deberta.embeddings.position_embeddings.weight"] = torch.zeros(5, 3)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    values = {name: x for name, x in theirs.to_dict().items() if name not in ("architectures", "legacy")}
    zoo.write(tmp_path, "config.json", values | {"pos_att_type": "c2p"})
    config, params = load_pretrained(tmp_path)
    lines = capsys.readouterr().err
    assert "left out embeddings.position_embeddings.weight: config.json says" in lines
    assert "left out lm_predictions.lm_head.bias, mask_predictions.dense.weight: beside the encoder" in lines
    assert "no pooler" in lines
    assert set(params) & {"mlm", "classifier"} == set()
    words = model.state_dict()["embeddings.word_embeddings.weight"].numpy()
    np.testing.assert_array_equal(params["embeddings"]["word"]["embedding"], words)
    assert config.pos_att_type == ("c2p",)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_decoder_is_tied_in_config_only_if_there_is_one(seed, tmp_path):
    """Transformers 4 ties the other head's dense layer to the word embeddings otherwise."""
    pytest.importorskip("torch")
    from families_export import export_without_tokenizer

    theirs = tiny_families.drawn("deberta-v2", seed)
    model = tiny_families.head_class("deberta-v2", "ForMaskedLM")(theirs)
    tiny_families.randomized(model, seed).save_pretrained(tmp_path / "first")
    export_without_tokenizer(tmp_path / "first", tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["tie_word_embeddings"] is theirs.legacy
    assert "mlm" in load_pretrained(tmp_path / "second")[1]
    assert theirs.legacy == (seed == 1)


def tokenizer_files(folder, tokenizer, **settings):
    zoo.write(folder, "tokenizer.json", tokenizer.to_str())
    stated = {"tokenizer_class": "DebertaV2Tokenizer", **zoo.DEBERTA_NAMES, **settings}
    zoo.write(folder, "tokenizer_config.json", stated)
    zoo.write(folder, "config.json", tiny_families.drawn("deberta-v2", 1).to_dict())


def test_the_tokenizer_of_transformers_4_is_read_as_it_is(tmp_path, capsys):
    tokenizer_files(tmp_path, zoo.deberta_4())
    found = load_tokenizer(tmp_path)
    assert "normalizer as in the file, as Transformers 4 reads it" in capsys.readouterr().err
    for text in ("the film was superb", " the\tfilm\n", "cafe\u0301"):
        assert found.encode(text).ids == zoo.deberta_4().encode(text).ids
    # The two versions differ, or this test would show nothing.
    assert zoo.deberta().encode("a\tb").ids != zoo.deberta_4().encode("a\tb").ids


def test_another_pipeline_is_refused(tmp_path):
    tokenizer_files(tmp_path, zoo.deberta_unigram(normalizers.Lowercase(), normalizers.StripAccents()))
    with pytest.raises(UserError, match="expected the pipeline of DebertaV2Tokenizer") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"do_lower_case": True}, {"split_by_punct": True}, {"add_prefix_space": False}])
def test_settings(tmp_path, settings):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.DebertaV2Tokenizer(
        vocab=[tuple(x) for x in json.loads(zoo.deberta().to_str())["model"]["vocab"]], **settings
    )
    tokenizer.save_pretrained(tmp_path)
    zoo.write(tmp_path, "config.json", tiny_families.drawn("deberta-v2", 1).to_dict())
    probe = Probe.of(load_tokenizer(tmp_path), read_model_config(tmp_path))
    compared = probe.compare_with_transformers("tokens", tmp_path)
    assert compared.is_equal, compared


def test_a_sentencepiece_model_alone(tmp_path):
    (tmp_path / "spm.model").write_bytes(b"")
    zoo.write(tmp_path, "config.json", tiny_families.drawn("deberta-v2", 1).to_dict())
    with pytest.raises(UserError, match=r"found spm.model; .*'transformers<5' sentencepiece protobuf, then python -c"):
        load_tokenizer(tmp_path)
