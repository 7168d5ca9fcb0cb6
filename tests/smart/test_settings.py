"""SMART's settings, presets and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax import smart
from bertjax.smart.settings import as_number

JITTED_OR_NOT = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight must be .*at least 0, found -1.0"),
        ({"radius": -0.1}, "radius must be .*at least 0, found -0.1"),
        ({"radius": float("nan")}, "radius"),
        ({"bregman_weight": float("inf")}, "bregman_weight"),
        ({"norm": "l1"}, "norm must be one of l2, linf, found 'l1'"),
        ({"num_steps": -1}, "num_steps must be at least 0, found -1"),
        ({"start": "noise"}, "num_steps must be at least 1 when the start is noise, found 0"),
        ({"decay": (0.9,)}, "decay must be .* a tuple of two numbers"),
        ({"decay": (0.9, 1.5)}, r"decay must be a number in \[0, 1\], found 1.5"),
        ({"decay": 1.5}, r"decay must be a number in \[0, 1\], found 1.5"),
        ({"decay": [0.9, 0.99]}, r"decay must be .* a tuple of two numbers, .* found \[0.9, 0.99\]"),
        ({"weight": "1"}, "weight must be a number or a schedule, found '1'"),
        ({"radius": np.ones(2)}, "radius must be a number or a schedule"),
        ({"horizon": 0.0}, "horizon must be .*above 0, found 0.0"),
        ({"every": 0}, "every must be at least 1, found 0"),
        ({"adversary": "guess"}, "adversary must be None or a record .*, found 'guess'"),
        ({"step_size": 1.0}, "step_size: expected a field of SmartSettings or of its adversary"),
        ({"start": "zero"}, "start must be one of noise, output, task_gradient, found 'zero'"),
    ],
)
def test_settings_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        smart.preset("bertjax", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_size": -1.0}, "step_size"),
        ({"noise": -1.0}, "noise"),
        ({"radius": -1.0}, "radius must be .*at least 0, found -1.0"),
        ({"radius": None}, "radius must be given if and only if projection is not 'none', found None"),
        ({"projection": "none"}, "radius must be given if and only if projection is not 'none', found 1e-05"),
        ({"num_steps": 0}, "num_steps must be at least 1, found 0"),
        ({"norm": "l1"}, "norm must be one of l2, linf, found 'l1'"),
        ({"per": "batch"}, "per must be one of example, token"),
        ({"projection": "cube"}, "projection must be one of ball, sphere, none"),
        ({"start": "output"}, "start: expected a field of SmartSettings or of its adversary"),
    ],
)
def test_ascent_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        smart.preset("paper", **changes)


@pytest.mark.parametrize("name", sorted(smart.PRESETS.keys() - {"none"}))
def test_every_preset_differs_from_none_and_is_regularised(name):
    assert smart.preset(name) != smart.preset("none")
    assert smart.preset(name).has_smoothness


def test_no_two_presets_are_the_same():
    assert len({smart.preset(name) for name in smart.PRESETS}) == len(smart.PRESETS)


def test_none_is_plain():
    assert smart.preset("none") == smart.SmartSettings()
    assert not smart.preset("none").has_smoothness
    assert not smart.preset("none").has_bregman


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of none, bertjax, bertjax_exact, paper, .*, found 'ours'"):
        smart.preset("ours")


def test_the_paper_preset_is_the_papers():
    paper = smart.preset("paper")
    ascent = paper.adversary
    assert isinstance(ascent, smart.ProjectedGradientAscent)
    assert (ascent.radius, ascent.noise, ascent.step_size, ascent.num_steps) == (1e-5, 1e-5, 1e-3, 1)
    assert (ascent.norm, ascent.per, ascent.projection) == ("linf", "example", "ball")
    assert (paper.bregman_weight, paper.decay) == (1.0, (0.99, 0.999))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # Our own; the others from the papers and code that the presets name.
        ("bertjax", {"weight": 1.0, "radius": 0.02, "norm": "l2", "bregman_weight": 1.0, "horizon": 0.1}),
        ("bertjax_exact", {"weight": 1.0, "radius": 0.02, "norm": "l2", "start": "noise", "horizon": 0.1}),
        ("mtdnn_2020", {"step_size": 1e-3, "noise": 1e-5, "norm": "linf", "per": "token", "projection": "none"}),
        ("mtdnn_head", {"step_size": 1e-3, "noise": 1e-5, "radius": 1.0, "per": "token", "projection": "sphere"}),
        ("mtdnn_head", {"normalize_gradient": False, "norm": "linf", "num_steps": 1, "matched_dropout": False}),
        ("sift", {"step_size": 1e-4, "noise": 1e-2, "norm": "linf", "per": "token", "projection": "none"}),
        ("vat", {"start": "noise", "num_steps": 1, "norm": "l2", "clean_gradient": False, "bregman_weight": 0.0}),
        ("r3f", {"adversary": smart.RandomPerturbation(radius=1e-5), "matched_dropout": False}),
        ("rdrop", {"adversary": None, "matched_dropout": False, "bregman_weight": 0.0}),
    ],
)
def test_presets_have_the_numbers_of_their_sources(name, numbers):
    settings = smart.preset(name)
    found = vars(settings) | (vars(settings.adversary) if settings.adversary else {})
    assert {key: found[key] for key in numbers} == numbers


# The anchor's decay


def decays(settings, num_steps, counts):
    decay = smart.anchor_decay(settings, num_steps)
    return [float(smart.value_at(decay, jnp.int32(count))) for count in counts]


def test_the_decay_changes_after_a_tenth_of_the_updates():
    found = decays(smart.SmartSettings(decay=(0.9, 0.99)), 50, (1, 5, 6, 50))
    np.testing.assert_allclose(found, [0.9, 0.9, 0.99, 0.99])


def test_a_number_or_a_schedule_of_the_decay_needs_no_length():
    assert smart.anchor_decay(smart.SmartSettings(decay=0.9)) == 0.9
    found = decays(smart.SmartSettings(decay=optax.linear_schedule(0.5, 1.0, 10)), None, (0, 5, 20))
    np.testing.assert_allclose(found, [0.5, 0.75, 1.0])


def test_the_horizon_is_a_share_of_the_updates():
    settings = smart.SmartSettings(horizon=0.2)
    np.testing.assert_allclose(decays(settings, 50, (0, 49)), 1 - 1 / 10)
    assert smart.anchor_decay(settings, 2) == 0  # a horizon below one update


@pytest.mark.parametrize("changes", [{}, {"horizon": 0.1}])
def test_a_decay_that_depends_on_the_length_needs_it(changes):
    with pytest.raises(ValueError, match="num_steps must be given"):
        smart.anchor_decay(smart.SmartSettings(**changes))


def test_a_decay_takes_the_place_of_a_presets_horizon():
    assert smart.preset("bertjax", horizon=0.5, decay=0.9).horizon == 0.5
    assert smart.preset("bertjax", decay=0.9).horizon is None
    assert smart.preset("bertjax", decay=0.9).decay == 0.9


@pytest.mark.parametrize(
    ("changes", "decays"),
    [
        ({"decay": (0.5, 0.9)}, [0.5] * 2 + [0.9] * 18),
        ({"decay": 0.75}, [0.75] * 20),
        ({"horizon": 0.2}, [0.75] * 20),
        ({"decay": lambda count: 1 - 1 / (1.0 + count)}, [1 - 1 / (1 + i) for i in range(1, 21)]),
    ],
    ids=["pair", "number", "horizon", "schedule"],
)
def test_what_the_start_weighs_in_the_anchor(changes, decays):
    settings = smart.SmartSettings(bregman_weight=1.0, **changes)
    shares = smart.start_share(settings, 20)
    assert shares[0] == 1
    np.testing.assert_allclose(shares[1:], np.cumprod(decays), rtol=1e-5)
    # And so it is: an anchor that starts at 1 and follows parameters at 0.
    anchor = jnp.float32(1.0)
    for step in range(1, 6):
        anchor = smart.update_anchor(anchor, jnp.float32(0.0), smart.value_at(smart.anchor_decay(settings, 20), step))
    np.testing.assert_allclose(anchor, shares[5], rtol=1e-5)


# Schedules and lazy regularisation


def numbers(settings):
    return {
        "weight": jnp.float32(settings.weight),
        "radius": jnp.float32(settings.adversary.radius),
        "bregman_weight": jnp.float32(settings.bregman_weight),
    }


@JITTED_OR_NOT
def test_schedules_are_evaluated_at_the_update(wrap):
    settings = smart.SmartSettings(
        weight=optax.linear_schedule(0.0, 1.0, 10),
        adversary=smart.PowerIteration(radius=lambda count: 0.1 * count),
        bregman_weight=optax.piecewise_constant_schedule(3.0, {2: 0.5}),
    )
    at = wrap(lambda count: smart.at_update(settings, count, numbers))
    for count, expected in [(0, (0, 0, 3)), (3, (0.3, 0.3, 1.5)), (20, (1, 2, 1.5))]:
        found = at(jnp.int32(count))
        np.testing.assert_allclose([found[n] for n in ("weight", "radius", "bregman_weight")], expected, rtol=1e-6)


def test_a_schedule_is_no_number():
    with pytest.raises(ValueError, match="radius is a schedule"):
        as_number("radius", lambda count: 0.1 * count)


def test_a_scheduled_weight_counts_as_not_zero():
    settings = smart.SmartSettings(weight=optax.constant_schedule(0.0), bregman_weight=optax.constant_schedule(0.0))
    assert settings.has_smoothness
    assert settings.has_bregman


@JITTED_OR_NOT
@pytest.mark.parametrize("scheduled", [False, True])
def test_every_k_gives_k_times_the_weight_at_every_kth_update_and_none_between(wrap, scheduled):
    weight = (lambda count: 2.0 + 0.0 * count) if scheduled else 2.0
    settings = smart.SmartSettings(
        weight=weight, adversary=smart.PowerIteration(radius=0.1), every=3, bregman_weight=5.0
    )
    at = wrap(lambda count: smart.at_update(settings, count, numbers))
    found = [at(jnp.int32(count)) for count in range(7)]
    np.testing.assert_allclose([x["weight"] for x in found], [6, 0, 0, 6, 0, 0, 6])
    np.testing.assert_allclose([x["bregman_weight"] for x in found], 5)
    np.testing.assert_allclose([x["radius"] for x in found], 0.1, rtol=1e-6)


def test_no_smoothness_needs_no_branch():
    settings = smart.SmartSettings(every=3, bregman_weight=1.0)
    assert smart.at_update(settings, jnp.int32(1), lambda now: now) == settings
