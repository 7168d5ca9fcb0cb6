"""Arguments that do not fit are refused in one line that says what was expected and found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart

B, S, D, C = 8, 3, 4, 5
X, KEY, W = jnp.ones((B, S, D)), jax.random.key(0), jnp.ones((D, C))


def logits_fn(x):
    return jnp.mean(x, axis=1) @ W


def call(logits_fn=logits_fn, x=X, key=KEY, divergence=smart.symmetric_kl, function=smart.smoothness, **options):
    return function(logits_fn, x, key, divergence=divergence, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # What the model returns
        (
            {"logits_fn": lambda x: (logits_fn(x), 1)},
            "one float array of 8 rows, found a tuple: return the logits alone",
        ),
        ({"logits_fn": lambda x: {"logits": logits_fn(x)}}, "found a dict: return the logits alone"),
        ({"logits_fn": lambda x: logits_fn(x).argmax(-1)}, r"one float array of 8 rows, found int32\[8\]"),
        (
            {"logits_fn": lambda x: jnp.mean(x, axis=0) @ W},
            r"found float32\[3, 5\]: it gets the whole batch, so jax.vmap a model",
        ),
        ({"logits_fn": lambda x: jnp.mean(logits_fn(x))}, r"found float32\[\]: it gets the whole batch, so jax.vmap"),
        # One logit, token logits
        (
            {"logits_fn": lambda x: logits_fn(x)[:, :1]},
            "found one, .*symmetric_bernoulli_kl .*squared_error for a score",
        ),
        ({"logits_fn": lambda x: logits_fn(x)[:, 0]}, "found no axis of classes: use smart.symmetric_bernoulli_kl"),
        ({"logits_fn": lambda x: x @ W}, r"logits \[B, C\], found axes before the classes: .*smart.Divergence.of"),
        (
            {"logits_fn": lambda x: x @ W, "divergence": smart.squared_error},
            "squared_error needs outputs .*Divergence.of",
        ),
        # Embeddings and mask
        (
            {"x": jnp.ones((B, S), jnp.int32)},
            r"embeddings must be floats \[B, ...\], found int32\[8, 3\]: .*not token ids",
        ),
        ({"x": (X, X)}, r"embeddings must be one array \[B, ...\], found a tuple"),
        ({"x": jnp.ones(B)}, r"embeddings must be floats \[B, ...\], found float32\[8\]"),
        ({"mask": jnp.ones((B, S + 1), bool)}, r"mask must be bool or 0/1 .*\[8, 3, 4\], .*found bool\[8, 4\]"),
        ({"mask": jnp.ones(S, bool)}, r"found bool\[3\]"),
        ({"mask": jnp.ones((B, S))}, r"found float32\[8, 3\]: pass mask > 0"),
        ({"mask": [True] * B}, "mask must be bool .*found a list"),
        ({"mask": jnp.full(B, 2)}, r"found int32\[8\], which could be lengths: pass jnp.arange\(S\) < lengths"),
        # Keys
        ({"key": None}, "key must be a key, such as jax.random.key.0., or keys .*found None"),
        ({"key": 0}, "key must be a key, .*found 0"),
        ({"key": jax.random.split(KEY, 3)}, r"one for each of 8 examples, found keys \[3\]"),
        ({"key": jax.random.split(jax.random.PRNGKey(0), 3)}, r"found keys \[3\]"),
        # Divergence
        ({"divergence": "kl"}, "divergence must be a function of two outputs .*found 'kl'"),
        (
            {"divergence": lambda p, q: jnp.mean(jnp.square(p - q))},
            r"one number for each of 8 examples, \[8\], found \[\]",
        ),
        ({"divergence": lambda p, q: jnp.square(p - q)}, r"found \[8, 5\] for outputs \[8, 5\]"),
        ({"divergence": smart.Divergence}, "divergence must be a function of two outputs"),
        ({"clean_logits": (logits_fn(X),)}, "clean_logits must map embeddings .*found a tuple"),
        (
            {"start": "output", "kernel": W.T},
            r"kernel must be \[D, 5\] for outputs .*found \[5, 4\]: Equinox and PyTorch",
        ),
        ({"clean_logits": logits_fn(X)[:, :3]}, r"equal shape \[B, ...\], found \[8, 5\] and \[8, 3\]"),
        # Settings
        ({"settings": "smart"}, "preset must be one of none, bertjax, .*found 'smart'"),
        ({"settings": 0.1}, "settings must be a preset's name or SmartSettings, found 0.1"),
        ({"settings": "none"}, "settings have no smoothness term"),
        ({"settings": smart.SmartSettings(bregman_weight=1.0)}, "settings have no smoothness term"),
        ({"settings": "bertjax"}, "loss_fn.* must be given if start is 'task_gradient'"),
        ({"settings": "bertjax", "loss_fn": lambda z: z}, r"loss_fn must return one number .*found float32\[8, 5\]"),
        ({"settings": "rdrop"}, "perturbed_logits_fn.* must be given if matched_dropout is False"),
        ({"settings": "paper", "start": "output"}, "start: expected a field of SmartSettings or of its adversary"),
        ({"settings": smart.PowerIteration(radius=lambda step: 0.1)}, "radius is a schedule"),
        ({"radius": -1.0}, "radius must be a finite number of at least 0, found -1.0"),
        ({"norm": "l1"}, "norm must be one of l2, linf, found 'l1'"),
        ({"num_steps": 0}, "num_steps must be at least 1 when the start is noise, found 0"),
        ({"start": X[0]}, r"start must have the embeddings' shape \[8, 3, 4\], found \[3, 4\]"),
        ({"share": 0.0}, r"share must be a number in \(0, 1\], found 0.0"),
        ({"share": "0.5"}, r"share must be a number in \(0, 1\], found '0.5'"),
        ({"num_steps": 1.0}, "num_steps must be an integer of at least 1 when the start is noise, found 1.0"),
        (
            {"share": 0.5, "logits_fn": lambda x: logits_fn(x) + jnp.ones((B, C))},
            "logits_fn fails on 4 of 8 rows: with a share, pass all else that is of the batch through args",
        ),
        (
            {"share": 0.1, "logits_fn": lambda x: jnp.broadcast_to(logits_fn(x), (B, C))},
            "logits_fn fails on 1 of 8 rows: with a share, pass all else",
        ),
        (
            {"share": 0.5, "settings": "rdrop", "perturbed_logits_fn": lambda x: logits_fn(x) + jnp.ones((B, C))},
            "logits_fn fails on 4 of 8 rows: with a share, pass all else that is of the batch through args",
        ),
        ({"share": 0.5, "args": (W,)}, r"expected a first dimension of 8, found \[4, 5\]"),
    ],
)
def test_smoothness_refuses(options, message):
    with pytest.raises(ValueError, match=message) as error:
        call(**options)
    assert "\n" not in str(error.value)


def test_a_perturbation_is_of_all_rows():
    with pytest.raises(ValueError, match="share is no setting of a perturbation, found 0.5: pass the rows themselves"):
        call(function=smart.perturbation, settings=smart.SmartSettings(weight=1.0, share=0.5))


@pytest.mark.parametrize("shapes", [((8,), (8, 1)), ((8, 1), (8,)), ((8, 2), (4, 2)), ((), ())])
def test_outputs_that_would_broadcast_are_refused(shapes):
    with pytest.raises(ValueError, match=r"two outputs of equal shape \[B, ...\], found"):
        smart.squared_error(*map(jnp.ones, shapes))


MODEL = smart.SplitModel(lambda params, batch: batch, lambda params, x, batch, key: logits_fn(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": MODEL._replace(logits=lambda *_: (logits_fn(X),))}, "logits must map embeddings .*found a tuple"),
        ({"model": MODEL._replace(embed=lambda *_: jnp.ones((B, S), jnp.int32))}, "embeddings must be floats"),
        ({"noise_key": 0}, "noise_key must be a key"),
        (
            {"loss_fn": lambda z, batch: jnp.mean(z)},
            r"loss_fn must return one number .*\[8\], found float32\[\]",
        ),
        ({"settings": "smart"}, "preset must be one of"),
        ({"settings": smart.PowerIteration()}, "settings must be a preset's name or SmartSettings, found PowerIter"),
        ({"anchor": None}, "anchor must be given"),
        (
            {"dropout_key": 3, "settings": smart.preset("rdrop")},
            "dropout_key must be a key or keys .* if matched_dropout is False, found 3",
        ),
        ({"mask": jnp.ones((B, 2), bool)}, "mask must be"),
    ],
)
def test_terms_refuse(options, message):
    arguments = {"model": MODEL, "params": {}, "anchor": {}, "batch": X, "dropout_key": None, "noise_key": KEY}
    arguments |= {"divergence": smart.symmetric_kl, "settings": "bertjax_exact"}
    smart.smart_terms(**arguments)
    with pytest.raises(ValueError, match=message):
        smart.smart_terms(**arguments | options)


def test_settings_of_an_update_are_no_name():
    with pytest.raises(ValueError, match="settings must be SmartSettings, such as smart.preset.*found 'bertjax'"):
        smart.at_update("bertjax", jnp.int32(0), lambda now: now)


@pytest.mark.parametrize("share", [None, 0.5])
def test_numpy_arrays_are_arrays(share):
    # float64, NumPy's default, is float32 here.
    x, mask = np.random.default_rng(0).normal(size=(B, S, D)), np.ones((B, S), bool)
    call_jitted = jax.jit(lambda key: call(x=x, key=key, mask=mask, args=(mask,), logits_fn=two, share=share))
    assert call_jitted(KEY).dtype == jnp.float32


def two(x, mask):
    return jnp.sum(jnp.where(mask[..., None], x, 0), axis=1) @ W


def test_integers_of_a_mask_are_true_or_false():
    mask = np.arange(S) < np.arange(B)[:, None] % S + 1
    w = jnp.arange(20.0).reshape(D, C)
    each = [call(lambda x: jnp.mean(x, axis=1) @ w, mask=jnp.asarray(m)) for m in (mask, 7 * mask.astype(np.int32))]
    np.testing.assert_array_equal(*each)


def test_the_model_of_one_example_is_named_where_it_was():
    with pytest.raises(AttributeError, match="smart.Model, of one example, is now bertjax.smart.SplitModel"):
        smart.Model  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Terminator'"):
        smart.Terminator  # noqa: B018


@pytest.mark.parametrize(("old", "new"), [("smart", "add_smart"), ("anchor", "get_anchor")])
def test_old_names_are_aliases_with_a_warning(old, new):
    with pytest.warns(DeprecationWarning, match=f"smart.{old} is now bertjax.smart.{new}"):
        assert getattr(smart, old) is getattr(smart, new)
