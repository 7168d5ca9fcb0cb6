"""The notebooks, executed from end to end, with a shrunken setting in place of their cell of parameters."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"


def run(name, parameters, folder):
    book = nbformat.read(FOLDER / name, as_version=4)
    for cell in book.cells:
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            cell.source = parameters
    book.cells = [cell for cell in book.cells if "install" not in cell.metadata.get("tags", [])]
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return book


def printed(book):
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs), outputs


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=1"))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
def test_smart_in_your_loop(tmp_path):
    """At its own settings, of which the text says what is to be seen."""
    text, outputs = printed(run("smart_in_your_loop.ipynb", "NUM_STEPS = 300", tmp_path))
    accuracies, losses = (re.findall(rf"{name} (\d+\.\d+)", text) for name in ("accuracy", "loss"))
    plain, ours = map(float, accuracies)
    assert plain > 0.65
    assert ours == pytest.approx(plain, abs=0.03)
    plain, ours = map(float, losses)
    assert ours < 0.85 * plain
    plain, ours = map(float, re.findall(r"(?:plain|SMART): (\d+\.\d+)\n", text))
    assert ours < 0.75 * plain
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_colab_tpu(tmp_path, tiny_checkpoint, sst_folder):
    parameters = f"""
RUN, INIT_FROM, TASK, DATA_DIR = "run", {str(tiny_checkpoint)!r}, "sst5", {str(sst_folder)!r}
EPOCHS, BATCH_SIZE, MAX_LENGTH = 1, 8, 16
"""
    run("colab_tpu.ipynb", parameters, tmp_path)
    text, outputs = printed(run("colab_tpu.ipynb", parameters, tmp_path))  # all of it once more, as a person does
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("Explained" in output.get("data", {}).get("text/html", "") for output in outputs)
    assert "model.safetensors" in text
    assert (tmp_path / "run" / "result.json").exists()
