import pytest
from matplotlib import image

from bertjax.evaluation.plots import save_figure, training_curves
from bertjax.evaluation.tables import format_rows, result_table


def test_columns_are_aligned():
    rows = [{"task": "sst5", "accuracy": 0.5, "step": 10}, {"task": "x", "accuracy": 0.123456, "step": 2}]
    assert format_rows(rows) == "\n".join(
        [
            "task  accuracy  step",
            "----  --------  ----",
            "sst5  0.5000    10",
            "x     0.1235    2",
        ]
    )


def test_missing_cells_are_empty():
    rows = [{"task": "a", "accuracy": 0.5}, {"task": "b", "pearson": 0.25}]
    assert format_rows(rows).splitlines()[2:] == ["a     0.5000", "b               0.2500"]


def test_a_result_shows_final_best_labels_and_warnings():
    result = {
        "steps": 30,
        "dev": {"sst5": {"final": {"accuracy": 0.4}, "best": {"accuracy": 0.5, "step": 20}}},
        "datasets": {"sst5": {"labels": "gold"}},
        "warnings": ["sst5: seen before"],
    }
    lines = result_table(result).splitlines()
    assert lines[2].split() == ["sst5", "final", "30", "0.4000"]
    assert lines[3].split() == ["sst5", "best", "20", "0.5000"]
    assert lines[4:] == ["sst5: labels are gold", "warning: sst5: seen before"]


@pytest.mark.parametrize(("terms", "width"), [({"smoothness": 0.1, "bregman": 0.2}, 1440), ({}, 960)])
def test_curves_include_smart_s_terms_if_logged(tmp_path, terms, width):
    records = [
        {"step": 10 * i, "split": "train", "values": {"loss": 2 - 0.1 * i, "accuracy": 0.1 * i, **terms}}
        for i in range(5)
    ]
    records.append({"step": 50, "split": "dev", "values": {"loss": 1.4, "accuracy": 0.5}})
    save_figure(tmp_path / "curves.png", training_curves(records, {"sst5": "accuracy"}))
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[:2] == (432, width)
    assert pixels[..., :3].std() > 0.05


def test_curves_of_several_tasks(tmp_path):
    train = [
        {"step": 10 * i, "split": "train", "values": {"loss": 2.0, "a/loss": 2 - 0.1 * i, "a/smoothness": 0.1 * i}}
        for i in range(5)
    ]
    dev = {
        "step": 40,
        "split": "dev",
        "values": {"a/accuracy": 0.5, "a/loss": 1.0, "b/pearson": 0.7, "mean/score": 0.6},
    }
    path = tmp_path / "curves.png"
    save_figure(path, training_curves([*train, dev], {"a": "accuracy", "b": "pearson", "mean": "score"}))
    assert image.imread(path).shape[:2] == (432, 1440)
