"""Training the last linear layer alone needs a trained layer before it."""

import jax.numpy as jnp
import pytest
from checkpoints import GOLDEN, TENSORS, write_checkpoint
from family_encoders import family_encoder

from bertjax.errors import UserError
from bertjax.models.families import FAMILIES
from bertjax.pretrained import check_head_alone, load_pretrained

HEAD = {"kernel": jnp.ones((12, 3)), "bias": jnp.ones(3)}
OWN_DENSE = sorted(set(FAMILIES) - {"bert"})


@pytest.mark.parametrize("name", OWN_DENSE)
def test_a_head_with_a_dense_layer_of_its_own(name):
    model, params = family_encoder(name, {})
    with pytest.raises(UserError, match="--config.tune: head trains .* new in SOURCE; use all, or"):
        check_head_alone(model.config, params, "SOURCE")
    check_head_alone(model.config, params | {"classifier": HEAD}, "SOURCE")
    check_head_alone(model.config, params | {"head_task": HEAD}, "SOURCE")


def test_bert_has_a_pooler_or_not(tmp_path, capsys):
    config, params = load_pretrained(write_checkpoint(tmp_path))
    check_head_alone(config, params, "SOURCE")
    without = {name: x for name, x in TENSORS.items() if "pooler" not in name}
    config, params = load_pretrained(write_checkpoint(tmp_path, without, GOLDEN["config"]))
    assert "no pooler" in capsys.readouterr().err
    with pytest.raises(UserError, match="new in SOURCE"):
        check_head_alone(config, params, "SOURCE")
