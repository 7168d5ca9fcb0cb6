"""A family that bertjax does not have, added as docs/checkpoints.md says: Data2VecText (Baevski et al., 2022)."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from families_export import export_without_tokenizer
from tiny_families import randomized

from bertjax import classify, load_pretrained
from bertjax.errors import UserError
from bertjax.models import families
from bertjax.models.families.roberta import ROBERTA, RobertaConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@dataclasses.dataclass(frozen=True)
class Data2VecTextConfig(RobertaConfig):
    model_type: ClassVar[str] = "data2vec-text"
    title: ClassVar[str] = "Data2VecText"


DATA2VEC_TEXT = dataclasses.replace(
    ROBERTA, config=Data2VecTextConfig, class_name="Data2VecText", prefix="data2vec_text."
)


@pytest.fixture
def checkpoint(tmp_path):
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    config = transformers.Data2VecTextConfig(vocab_size=30, max_position_embeddings=14, num_labels=3, **sizes)
    model = randomized(transformers.Data2VecTextForSequenceClassification(config), 0)
    model.save_pretrained(tmp_path / "first")
    return tmp_path / "first", model


def test_one_config_and_one_entry_add_a_family(checkpoint, monkeypatch):
    folder, model = checkpoint
    monkeypatch.setitem(families.FAMILIES, "data2vec-text", DATA2VEC_TEXT)
    config, params = load_pretrained(folder)
    assert isinstance(config, Data2VecTextConfig)
    ids, mask = np.array([[0, 7, 9, 2], [0, 8, 2, 1]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).logits.numpy()
    np.testing.assert_allclose(classify(params, config, ids, mask), expected, atol=2e-5 * np.abs(expected).max())

    export_without_tokenizer(folder, folder.with_name("second"))
    back = transformers.AutoModelForSequenceClassification.from_pretrained(folder.with_name("second"))
    assert type(back) is type(model)
    for key, x in model.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[key].numpy(), x.numpy())


def test_without_them_it_is_refused(checkpoint):
    with pytest.raises(UserError, match="data2vec-text"):
        load_pretrained(checkpoint[0])
