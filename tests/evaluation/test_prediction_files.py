import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.evaluation import prediction_files
from bertjax.tasks import get_task

LOGITS = np.log(np.array([[0.1, 0.2, 0.4, 0.2, 0.1], [0.5, 0.2, 0.1, 0.1, 0.1]]))


def test_a_table_of_classes_has_names_and_probabilities():
    assert prediction_files.format_table(get_task("sst5"), ["a", 'b,"c"'], LOGITS) == (
        "id,predicted,very negative,negative,neutral,positive,very positive\n"
        "a,neutral,0.100000,0.200000,0.400000,0.200000,0.100000\n"
        '"b,""c""",very negative,0.500000,0.200000,0.100000,0.100000,0.100000\n'
    )


def test_a_table_of_scores_keeps_float32_s_digits():
    text = prediction_files.format_table(
        get_task("sts"), ["a", "b", "c"], np.array([[4.25], [-0.5], [1 / 3000]], np.float32)
    )
    assert text == "id,predicted\na,4.25\nb,-0.5\nc,0.0003333333\n"


@pytest.mark.parametrize(
    ("name", "outputs", "expected"),
    [
        ("sst5", LOGITS, "id \t Predicted_Sentiment \na , 2 \nb , 0 \n"),
        ("cfimdb", LOGITS[:, :2], "id \t Predicted_Sentiment \na , 1 \nb , 0 \n"),
        ("quora", LOGITS[:, :2], "id \t Predicted_Is_Paraphrase \na , 1 \nb , 0 \n"),
        ("sts", np.array([[4.25], [1.0]]), "id \t Predicted_Similiary \na , 4.250000 \nb , 1.000000 \n"),
    ],
)
def test_the_course_format(name, outputs, expected):
    prediction_files.check_format("course", [get_task(name)])
    assert prediction_files.format_course(get_task(name), ["a", "b"], outputs) == expected


def test_the_course_format_is_refused_for_other_tasks():
    prediction_files.check_format("table", [get_task("rated_sst")])
    with pytest.raises(UserError, match="--format: course is for sst5, .*, found a run of rated_sst; drop the flag"):
        prediction_files.check_format("course", [get_task("sst5"), get_task("rated_sst")])
