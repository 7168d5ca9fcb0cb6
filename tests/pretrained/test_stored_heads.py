"""Which classifiers are heads of whole texts: by the architecture in config.json, and by their names and shapes."""

import json
from functools import partial

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import GOLDEN, MLM, NSP, TENSORS, assert_holds, write_checkpoint, write_tokenizer
from golden import make_bert

from bertjax.errors import UserError
from bertjax.pretrained import head_class_names, load_pretrained
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.pretrained.formats import orbax_folder
from bertjax.pretrained.load import read_checkpoint

BERT = {f"bert.{name}": x for name, x in TENSORS.items()}
CLASSIFIER = {
    "classifier.weight": make_bert.tensor("classifier.weight", (5, 12)),
    "classifier.bias": make_bert.tensor("classifier.bias", (5,)),
}
LISTED = "classifier.bias [5], classifier.weight [5, 12]"


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / "checkpoint"
    write_tokenizer(folder)
    return partial(write_checkpoint, folder)


def by(*architectures, **config):
    return GOLDEN["config"] | {"architectures": list(architectures)} | config


SENTENCES = [
    by("BertForSequenceClassification"),
    by("BertForSequenceClassification", "BertForSequenceClassification"),
    by("BertModel", "BertForSequenceClassification"),
    by("TFBertForSequenceClassification"),
]


@pytest.mark.parametrize("config", SENTENCES)
def test_a_head_of_sentences(write, capsys, config):
    _, params = load_pretrained(write(BERT | CLASSIFIER, config))
    assert_holds(params, TENSORS)
    np.testing.assert_array_equal(params["classifier"]["kernel"], CLASSIFIER["classifier.weight"].T)
    np.testing.assert_array_equal(params["classifier"]["bias"], CLASSIFIER["classifier.bias"])
    assert capsys.readouterr().err == ""


OTHERS = [
    ["BertForTokenClassification"],
    ["BertForMultipleChoice"],
    ["BertForQuestionAnswering"],
    ["BertModel"],
    ["BertForMaskedLM"],
    ["BertForMultiLabelSequenceClassification"],
    ["SentimentModel"],
    ["BertForSequenceClassification", "BertForTokenClassification"],
]


@pytest.mark.parametrize("architectures", OTHERS)
def test_heads_of_other_architectures_are_left_out(write, capsys, architectures):
    folder = write(BERT | CLASSIFIER, by(*architectures))
    _, params = load_pretrained(folder)
    assert_holds(params, TENSORS)
    assert "classifier" not in params
    expected = f"left out {LISTED}: a head of {', '.join(architectures)}, not of BertForSequenceClassification"
    assert capsys.readouterr().err == f"{folder}: {expected}\n"


@pytest.mark.parametrize("config", [GOLDEN["config"], by(), GOLDEN["config"] | {"architectures": None}])
def test_a_classifier_without_an_architecture_is_assumed_to_be_of_sentences(write, capsys, config):
    folder = write(BERT | CLASSIFIER, config)
    assert "classifier" in load_pretrained(folder)[1]
    assert capsys.readouterr().err == (
        f"{folder}: config.json names no architecture; {LISTED} are assumed to be those of a "
        "BertForSequenceClassification\n"
    )


ODD = {
    "columns": {"classifier.weight": (5, 11), "classifier.bias": (5,)},
    "a vector": {"classifier.weight": (5,), "classifier.bias": (5,)},
    "biases": {"classifier.weight": (5, 12), "classifier.bias": (4,)},
    "a matrix of biases": {"classifier.weight": (5, 12), "classifier.bias": (5, 1)},
    "no outputs": {"classifier.weight": (0, 12), "classifier.bias": (0,)},
    "no bias": {"classifier.weight": (5, 12)},
    "no weight": {"classifier.bias": (5,)},
    "two layers": {
        f"classifier.{name}": shape for name, shape in {"dense.weight": (12, 12), "dense.bias": (12,)}.items()
    },
    "a sequence": {"classifier.0.weight": (5, 12), "classifier.0.bias": (5,)},
    "more": {"classifier.weight": (5, 12), "classifier.bias": (5,), "classifier.scale": (5,)},
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("config", [by("BertForSequenceClassification"), GOLDEN["config"]])
def test_an_odd_classifier_is_left_out(write, capsys, name, config):
    folder = write(BERT | {tensor: np.zeros(shape, np.float32) for tensor, shape in ODD[name].items()}, config)
    assert "classifier" not in load_pretrained(folder)[1]
    (line,) = capsys.readouterr().err.splitlines()
    listed = ", ".join(f"{tensor} {list(shape)}" for tensor, shape in sorted(ODD[name].items()))
    assert (
        line
        == f"{folder}: left out {listed}: expected classifier.weight [classes, 12] and classifier.bias [classes] alone"
    )


BESIDE = {
    "a loss": {"loss_fct.weight": (5,)},
    "a criterion": {"criterion.weight": (5,), "criterion.pos_weight": (5,)},
    "a distilled student": {"fit_denses.0.weight": (12, 12), "fit_denses.0.bias": (12,)},
    "a projection": {"kd_proj.weight": (20, 12)},
    "a conditional random field": {"crf.transitions": (5, 5), "crf.start_transitions": (5,)},
    "learnt loss weights": {"log_vars": (3,)},
    "question answering": {"qa_outputs.weight": (2, 12), "qa_outputs.bias": (2,)},
    "escape codes": {"\x1b[2J.weight": (1,)},
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("encoder", [TENSORS, BERT], ids=["bare", "bert."])
def test_tensors_beside_the_encoder_are_left_out(write, capsys, name, encoder):
    extra = {tensor: np.zeros(shape, np.float32) for tensor, shape in BESIDE[name].items()}
    folder = write(encoder | extra, by("BertForQuestionAnswering"))
    _, params = load_pretrained(folder)
    assert_holds(params, TENSORS)
    assert params.keys() == load_pretrained(write(encoder))[1].keys()
    listed = ", ".join(sorted(extra)).replace("\x1b", "\\x1b")
    expected = "beside the encoder, and no head that is read here (config.json: BertForQuestionAnswering)"
    assert capsys.readouterr().err == f"{folder}: left out {listed}: {expected}\n"


def test_many_tensors_beside_the_encoder_are_named_in_short(write, capsys):
    folder = write(BERT | {f"log_vars.{i:02}": np.zeros(1, np.float32) for i in range(30)})
    load_pretrained(folder)
    line = capsys.readouterr().err
    assert line.startswith(f"{folder}: left out log_vars.00, log_vars.01, ")
    assert line.endswith("log_vars.07 and 22 more: beside the encoder, and no head that is read here\n")


# Convert and export


def exported(folder):
    """The tensors and config.json of a checkpoint, exported directly and through `convert`."""
    out = folder.parent
    convert(folder, out / "converted")
    for source, target in ((folder, "a"), (out / "converted", "b")):
        export(source, out / target)
    one, other = ((out / target / "model.safetensors").read_bytes() for target in "ab")
    assert one == other
    config = json.loads((out / "b" / "config.json").read_text())
    assert config == json.loads((out / "a" / "config.json").read_text())
    return safetensors.numpy.load_file(out / "a" / "model.safetensors"), config


def test_what_is_left_out_is_not_exported(write, capsys):
    folder = write(BERT | CLASSIFIER | {"loss_fct.weight": np.zeros(5, np.float32)}, by("BertForTokenClassification"))
    tensors, config = exported(folder)
    assert tensors.keys() == TENSORS.keys()
    assert config["architectures"] == ["BertModel"]
    assert capsys.readouterr().err.count("left out classifier") == 2


def test_an_untied_head_of_pre_training_is_not_exported(write, capsys):
    decoder = {"cls.predictions.decoder.weight": np.zeros((24, 12), np.float32)}
    tensors, config = exported(write(BERT | MLM | NSP | decoder, by("BertForPreTraining")))
    assert tensors.keys() == BERT.keys() | NSP.keys()
    assert config["architectures"] == ["BertForNextSentencePrediction"]
    assert capsys.readouterr().err.count("left out the head cls.predictions: expected ") == 2


def test_a_classifier_beside_a_head_of_pre_training_is_exported_as_a_classifier(write):
    tensors, config = exported(write(BERT | CLASSIFIER | MLM, by("BertForSequenceClassification")))
    assert tensors.keys() == (BERT | CLASSIFIER | MLM).keys()
    assert config["architectures"] == ["BertForSequenceClassification"]


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression", "single_label_classification"])
def test_a_head_of_several_labels_is_exported_as_it_is(write, problem_type):
    names = dict(zip("01234", ["a", 2, 2.5, True, "LABEL_4"], strict=True))
    folder = write(BERT | CLASSIFIER, by("BertForSequenceClassification", problem_type=problem_type, id2label=names))
    tensors, config = exported(folder)
    for name, x in CLASSIFIER.items():
        np.testing.assert_array_equal(tensors[name], x)
    assert config["problem_type"] == problem_type
    texts = ["a", "2", "2.5", "True", "LABEL_4"]
    assert config["id2label"] == dict(zip("01234", texts, strict=True))
    assert config["label2id"] == {text: i for i, text in enumerate(texts)}
    assert head_class_names(folder) == {"classifier": texts}


@pytest.mark.parametrize(
    ("id2label", "complaint"),
    [
        (
            {"0": "a", "1": "b"},
            "expected id2label to have the keys 0 to 4, one for each output of the classifier, found "
            "['0', '1']; fix it",
        ),
        (
            dict.fromkeys("12345", "a"),
            "expected id2label to have the keys 0 to 4, one for each output of the classifier, found "
            "['1', '2', '3', '4', '5']; fix it",
        ),
        (list("abcde"), "expected an object as id2label, found ['a', 'b', 'c', 'd', 'e']; get the file again"),
        (dict.fromkeys("01234"), "expected names in id2label, found None; fix it"),
        ({name: ["a"] for name in "01234"}, "expected names in id2label, found ['a']; fix it"),
        ({name: {"a": 1} for name in "01234"}, "expected names in id2label, found {'a': 1}; fix it"),
    ],
)
def test_names_that_do_not_fit_the_classifier(write, id2label, complaint):
    folder = write(BERT | CLASSIFIER, by("BertForSequenceClassification", id2label=id2label))
    with pytest.raises(UserError) as info:
        export(folder, folder.parent / "out")
    assert str(info.value) == f"{folder / 'config.json'}: {complaint}"
    assert not (folder.parent / "out").exists()


def test_a_number_that_is_not_finite_is_not_exported(write):
    folder = write(BERT, by("BertModel", initializer_range=float("nan")))
    with pytest.raises(UserError, match=r"initializer_range must be in \[0, 1000\], found nan$"):
        export(folder, folder.parent / "out")


def test_a_classifier_that_an_earlier_version_converted_is_left_out(write, capsys):
    folder = write(BERT | CLASSIFIER, by("BertForSequenceClassification"))
    converted = convert(folder, folder.parent / "converted")
    assert "classifier" in load_pretrained(converted)[1]
    (converted / "config.json").write_text(json.dumps(by("BertForTokenClassification")))
    assert ("classifier", "bias") in orbax_folder.read_orbax(converted / "params", read_checkpoint(folder)[0])
    capsys.readouterr()
    assert "classifier" not in load_pretrained(converted)[1]
    assert capsys.readouterr().err == f"{converted}: left out classifier: a head of BertForTokenClassification\n"
