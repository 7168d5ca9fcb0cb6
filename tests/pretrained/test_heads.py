"""Heads in a checkpoint, of pre-training and of classification, and the heads of a run that starts from it."""

import json
from functools import partial

import chex
import jax
import numpy as np
import pytest
from checkpoints import GOLDEN, MLM, NSP, TENSORS, assert_holds, write_checkpoint
from golden import make_bert

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.pretrained import classifier_problem_type, head_class_names, load_pretrained, matching_heads, with_heads

KEY = jax.random.key(0)


@pytest.fixture
def write(tmp_path):
    return partial(write_checkpoint, tmp_path)


def old_name(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


DECODER = {
    "cls.predictions.decoder.weight": TENSORS["embeddings.word_embeddings.weight"],
    "cls.predictions.decoder.bias": MLM["cls.predictions.bias"],
}


@pytest.mark.parametrize("rename", [str, old_name])
@pytest.mark.parametrize("decoder", [{}, DECODER])
def test_the_heads_of_pre_training(write, rename, decoder):
    tensors = {rename(name): x for name, x in (TENSORS | MLM | NSP | decoder).items()}
    _, params = load_pretrained(write(tensors))
    assert_holds(params, TENSORS)
    expected = {
        "transform": {
            "kernel": MLM["cls.predictions.transform.dense.weight"].T,
            "bias": MLM["cls.predictions.transform.dense.bias"],
        },
        "norm": {
            "affine": {
                "scale": MLM["cls.predictions.transform.LayerNorm.weight"],
                "bias": MLM["cls.predictions.transform.LayerNorm.bias"],
            }
        },
        "bias": MLM["cls.predictions.bias"],
    }
    chex.assert_trees_all_equal(params["mlm"], expected)
    nsp = {"kernel": NSP["cls.seq_relationship.weight"].T, "bias": NSP["cls.seq_relationship.bias"]}
    chex.assert_trees_all_equal(params["head_nsp"], nsp)


@pytest.mark.parametrize(("present", "absent"), [(MLM, "head_nsp"), (NSP, "mlm")])
def test_one_head_of_pre_training_alone(write, present, absent):
    _, params = load_pretrained(write(TENSORS | present))
    assert absent not in params
    assert len(params) == len(load_pretrained(write())[1]) + 1


# Heads of pre-training that cannot be read: left out for the encoder, refused where they are wanted

ODD_HEADS = {
    **{f"without {name}": (MLM | NSP, name, f"tensors do not fit config.json: missing: {name}") for name in MLM | NSP},
    "more": (
        MLM | NSP | {"cls.predictions.more": np.zeros(1, np.float32)},
        None,
        "tensors do not fit config.json: surplus: cls.predictions.more",
    ),
    "a long decoder": (
        MLM | NSP | DECODER | {"cls.predictions.decoder.weight": np.zeros((25, 12), np.float32)},
        None,
        "tensors do not fit config.json: misshapen: cls.predictions.decoder.weight (expected [24, 12], found [25, 12])",
    ),
    "three classes": (
        NSP | MLM | {"cls.seq_relationship.weight": np.zeros((3, 12), np.float32)},
        None,
        "tensors do not fit config.json: misshapen: cls.seq_relationship.weight (expected [2, 12], found [3, 12])",
    ),
    **{
        f"untied {name}": (
            MLM | NSP | DECODER | {name: DECODER[name] + np.float32(1e-3)},
            None,
            f"expected {name} to equal {tied_to}: only tied decoders are supported",
        )
        for name, tied_to in {
            "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        }.items()
    },
}


@pytest.mark.parametrize("case", ODD_HEADS)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_head_of_pre_training_that_cannot_be_read(write, capsys, case, prefix):
    heads, lost, complaint = ODD_HEADS[case]
    tensors = {prefix + name: x for name, x in TENSORS.items()} | {n: x for n, x in heads.items() if n != lost}
    folder = write(tensors)
    _, params = load_pretrained(folder)
    assert_holds(params, TENSORS)
    left, kept = ("head_nsp", "mlm") if "seq_relationship" in complaint else ("mlm", "head_nsp")
    assert left not in params
    assert kept in params
    head = "cls.seq_relationship" if left == "head_nsp" else "cls.predictions"
    assert capsys.readouterr().err == f"{folder}: left out the head {head}: {complaint}\n"
    with pytest.raises(UserError) as info:
        load_pretrained(folder, strict_heads=True)
    assert str(info.value) == f"{folder}: {complaint}"


def test_a_decoder_s_bias_alone(write, capsys):
    bias = np.where(np.arange(24) == 3, np.float32("nan"), MLM["cls.predictions.bias"])
    tensors = TENSORS | MLM | {"cls.predictions.decoder.bias": bias}
    del tensors["cls.predictions.bias"]
    _, params = load_pretrained(write(tensors), strict_heads=True)
    np.testing.assert_array_equal(params["mlm"]["bias"], bias)
    assert capsys.readouterr().err == ""


def test_heads_by_their_own_names_come_first():
    head = {"kernel": np.ones((4, 2)), "bias": np.ones(2)}
    params = {"kept": 1, "mlm": {}, "head_a": head, "head_b": head, "head_c": head}
    params["classifier"] = {"kernel": np.zeros((4, 2)), "bias": np.zeros(2)}
    found = with_heads(params, BertConfig(hidden_size=4, num_attention_heads=1), {"a": 2, "new": 2, "b": 3}, KEY)
    assert set(found) == {"kept", "head_a", "head_new", "head_b"}
    chex.assert_trees_all_equal(found["head_a"], head)
    chex.assert_trees_all_equal(found["head_new"], params["classifier"])
    chex.assert_shape(found["head_b"]["kernel"], (4, 3))
    assert np.any(found["head_b"]["kernel"])


CLASSIFIER = {
    "classifier.weight": make_bert.tensor("classifier.weight", (5, 12)),
    "classifier.bias": make_bert.tensor("classifier.bias", (5,)),
}


def test_a_stored_classifier_is_used_if_its_shape_is_right(write):
    config, params = load_pretrained(write(TENSORS | CLASSIFIER))
    stored = {"kernel": CLASSIFIER["classifier.weight"].T, "bias": CLASSIFIER["classifier.bias"]}
    chex.assert_trees_all_equal(params["classifier"], stored)
    whole = with_heads(params, config, {"sst": 5, "sts": 1}, jax.random.key(0))
    assert "classifier" not in whole
    assert "classifier" in params  # the caller's tree is unchanged
    chex.assert_trees_all_equal(whole["head_sst"], stored)
    chex.assert_shape(whole["head_sts"]["kernel"], (12, 1))
    assert np.any(whole["head_sts"]["kernel"])


def head_of(value, classes=2):
    return {"kernel": np.full((4, classes), value), "bias": np.full(classes, value)}


FIT = {
    "its own, the same": ({"head_a": head_of(1.0)}, {"head_a": ["no", "yes"]}, 1.0, ""),
    "its own, the other way round": (
        {"head_a": head_of(1.0)},
        {"head_a": ["yes", "no"]},
        None,
        "['yes', 'no']\n",
    ),
    "a classifier, in capitals": ({"classifier": head_of(2.0)}, {"classifier": ["NO", "Yes"]}, 2.0, ""),
    "a classifier, others": (
        {"classifier": head_of(2.0)},
        {"classifier": ["up", "down"]},
        None,
        "['up', 'down']\n",
    ),
    "a classifier, no names": (
        {"classifier": head_of(2.0)},
        {},
        2.0,
        "a: the checkpoint does not name the classes of its head; assumed to be no, yes\n",
    ),
    "another size": ({"classifier": head_of(2.0, 3)}, {}, None, "a new head: the checkpoint's has 3 outputs, here 2"),
    "its own, of another size": ({"head_a": head_of(1.0, 3)}, {"head_a": ["no", "yes"]}, None, "has 3 outputs, here 2"),
    "a score": ({"head_a": head_of(1.0, 1)}, {"head_a": []}, None, "is for a score"),
    "terminal escape codes": ({"head_a": head_of(1.0)}, {"head_a": ["\x1b[2J", "yes"]}, None, r"'\x1b[2J'"),
    "none": ({}, {}, None, ""),
}


@pytest.mark.parametrize("name", FIT)
def test_a_head_is_kept_if_its_classes_are_the_tasks(name, capsys):
    params, stored_classes, expected, message = FIT[name]
    found = matching_heads({"kept": 1} | params, stored_classes, {"a": ("no", "yes")})
    assert set(found) == {"kept"} | ({"head_a"} if expected else set())
    if expected:
        chex.assert_trees_all_equal(found["head_a"], head_of(expected))
    err = capsys.readouterr().err
    assert message in err
    assert bool(message) == bool(err)


def test_a_classifier_goes_to_every_task_that_it_fits(capsys):
    params, labels = {"classifier": head_of(2.0)}, {"classifier": ["no", "yes"]}
    found = matching_heads(params, labels, {"a": ("no", "yes"), "b": ("yes", "no"), "c": ()})
    assert set(found) == {"head_a"}
    expected = [f"{name}: a new head: the checkpoint's is for ['no', 'yes']" for name in "bc"]
    assert capsys.readouterr().err.splitlines() == expected


def test_a_score_takes_a_head_of_a_score(capsys):
    head = head_of(1.0, 1)
    for labels in ({}, {"classifier": ["similarity"]}):
        chex.assert_trees_all_equal(matching_heads({"classifier": head}, labels, {"c": ()}), {"head_c": head})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("id2label", "expected"),
    [
        ({"1": "good", "0": "bad"}, {"classifier": ["bad", "good"]}),
        ({"0": "LABEL_0", "1": "LABEL_1"}, {}),
        ({"0": "LABEL_1", "1": "LABEL_0"}, {"classifier": ["LABEL_1", "LABEL_0"]}),
        ({"0": 0, "1": 1}, {}),
        ({"0": "0", "1": "1"}, {}),
        ({"0": 0.0, "1": 1.0}, {}),
        ({"0": 1, "1": 2}, {"classifier": ["1", "2"]}),
        ({"0": "2", "1": "1", "2": "0"}, {"classifier": ["2", "1", "0"]}),
        ({"0": -0.5, "1": True, "2": "x"}, {"classifier": ["-0.5", "True", "x"]}),
        ({"0": False, "1": True}, {"classifier": ["False", "True"]}),
        ({"00": "bad", "1": "good"}, {}),
        ({}, {}),
        ({"0": "bad", "2": "good"}, {}),
        (["bad", "good"], {}),
        (None, {}),
    ],
)
def test_class_names_in_config_json(write, id2label, expected):
    folder = write()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": id2label}))
    assert head_class_names(folder) == expected


@pytest.mark.parametrize("value", [None, ["good"], {"a": 1}])
def test_class_names_that_are_no_names(write, value):
    folder = write(config=GOLDEN["config"] | {"id2label": {"0": "bad", "1": value}})
    with pytest.raises(UserError) as info:
        head_class_names(folder)
    assert str(info.value) == f"{folder / 'config.json'}: expected names in id2label, found {value!r}; fix it"


SEVERAL = {
    ("multi_label_classification", 2): "a new head: the checkpoint's is for several labels at once",
    ("multi_label_classification", 1): "a new head: the checkpoint's is for several labels at once",
    ("regression", 2): "a new head: the checkpoint's is for several scores at once",
    ("regression", 1): None,
    ("single_label_classification", 2): None,
    (None, 2): None,
}


@pytest.mark.parametrize(("problem_type", "outputs"), SEVERAL)
def test_a_classifier_of_several_labels_is_for_no_task_of_one(capsys, problem_type, outputs):
    classes = ("no", "yes") if outputs == 2 else ()
    names = {"classifier": list(classes)} if classes else {}
    found = matching_heads({"classifier": head_of(1.0, outputs)}, names, {"a": classes}, problem_type)
    message = SEVERAL[problem_type, outputs]
    assert capsys.readouterr().err == (f"a: {message}\n" if message else "")
    assert ("head_a" in found) == (message is None)
    # A run's own head is not the one in config.json.
    assert "head_a" in matching_heads({"head_a": head_of(1.0, outputs)}, {}, {"a": classes}, problem_type)


@pytest.mark.parametrize("problem_type", ["multi_label", 3, ["regression"]])
def test_an_unknown_problem_type(write, problem_type):
    folder = write(config=GOLDEN["config"] | {"problem_type": problem_type})
    with pytest.raises(UserError) as info:
        classifier_problem_type(folder)
    assert str(info.value) == (
        f"{folder / 'config.json'}: expected problem_type to be one of regression, single_label_classification, "
        f"multi_label_classification, found {problem_type!r}; fix it"
    )


def test_new_heads_are_independent():
    config = BertConfig(hidden_size=600, initializer_range=0.3)
    heads = dict.fromkeys("abc", 4)
    params = with_heads({"kept": 1}, config, heads, jax.random.key(0))
    assert params.pop("kept") == 1
    assert set(params) == {"head_a", "head_b", "head_c"}
    kernels = np.stack([head["kernel"] for head in params.values()]).reshape(3, -1)
    for head in params.values():
        chex.assert_trees_all_equal(head["bias"], np.zeros(4, np.float32))
    # Five standard errors: of a standard deviation, and of a correlation of independent draws.
    assert np.all(np.abs(kernels.std(axis=1) - 0.3) < 5 * 0.3 / np.sqrt(2 * 2400))
    assert np.all(np.abs(np.corrcoef(kernels)[np.triu_indices(3, 1)]) < 5 / np.sqrt(2400))
    # The names decide, not the order; another key, other heads.
    again = with_heads({}, config, dict(reversed(heads.items())), jax.random.key(0))
    chex.assert_trees_all_equal(again, params)
    other = with_heads({}, config, heads, jax.random.key(1))
    assert all(np.any(other[name]["kernel"] != params[name]["kernel"]) for name in params)


def test_names_in_label2id(write):
    folder = write()
    config = json.loads((folder / "config.json").read_text())

    def named(**values):
        (folder / "config.json").write_text(json.dumps(config | values))
        return head_class_names(folder)

    expected = {"classifier": ["bad", "good"]}
    assert named(label2id={"good": 1, "bad": 0}) == expected
    assert named(label2id={"good": 1, "bad": 0}, id2label={"0": "LABEL_0", "1": "LABEL_1"}) == expected
    assert named(label2id={"LABEL_1": 1, "LABEL_0": 0}, id2label={"0": "bad", "1": "good"}) == expected
    with pytest.raises(UserError, match="expected id2label and label2id to name the same classes"):
        named(label2id={"good": 0, "bad": 1}, id2label={"0": "bad", "1": "good"})
