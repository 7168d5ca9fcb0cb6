import numpy as np
from matplotlib import image

from bertjax.evaluation import plots
from bertjax.evaluation.plots import save_figure


def pixels(figure, folder):
    save_figure(folder / "plot.png", figure)
    return image.imread(folder / "plot.png")[..., :3]


def test_rows_of_the_confusion_matrix_are_labels_and_sum_to_one(tmp_path):
    # Labels 0, 0, 0, 0, 1 are predicted as 0, 1, 1, 1, 0; class 2 has no examples.
    logits = np.eye(3)[[0, 1, 1, 1, 0]]
    figure = plots.confusion_matrix(logits, np.array([0, 0, 0, 0, 1]), ("a", "b", "c"), "title")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.25, 0.75, 0], [1, 0, 0], [0, 0, 0]])
    cells = [text.get_text() for text in axes.texts]
    assert cells == ["1\n25%", "3\n75%", "0\n0%", "1\n100%", "0\n0%", "0\n0%", "0\n0%", "0\n0%", "0\n0%"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a (4)", "b (1)", "c (0)"]
    assert pixels(figure, tmp_path).std() > 0.05


def test_a_matrix_of_many_classes_has_no_numbers():
    labels = np.arange(30)
    figure = plots.confusion_matrix(np.eye(30), labels, [f"class {i}" for i in labels], "title")
    assert not figure.axes[0].texts
    assert max(figure.get_size_inches()) < 20


def test_scores_are_plotted_against_labels_with_the_diagonal(tmp_path):
    scores, labels = np.array([0.5, 4.0, -1.0], np.float32), np.array([0.0, 5.0, 1.0], np.float32)
    figure = plots.scatter(scores, labels, "title")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), np.stack([labels, scores], axis=1))
    line = axes.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert low < -1
        assert high > 5
    assert pixels(figure, tmp_path).std() > 0.01


def test_equal_scores_can_be_plotted(tmp_path):
    assert pixels(plots.scatter(np.ones(2), np.ones(2), "title"), tmp_path).std() > 0.01
