"""GLUE from records in TFDS's format, without the network."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
from tensorflow_datasets.core.download import checksums, downloader

from bertjax.data import glue
from bertjax.errors import UserError
from bertjax.tasks import get_task

RECORDS = {
    "stsb": {"idx": np.int32(7), "label": np.float32(2.5), "sentence1": b"na\xc3\xafve", "sentence2": b"two"},
    "sst2": {"idx": np.int32(8), "label": np.int64(-1), "sentence": b"fine"},
    "mnli": {"idx": np.int32(9), "label": np.int64(2), "premise": b"p", "hypothesis": b"h"},
}
EXAMPLES = {
    "stsb": {"id": "7", "label": 2.5, "text": "naïve", "text_pair": "two"},
    "sst2": {"id": "8", "label": -1, "text": "fine"},
    "mnli": {"id": "9", "label": 2, "text": "p", "text_pair": "h"},
}


class Builder:
    def __init__(self, name):
        self.record, self.asked = RECORDS[name], []

    def download_and_prepare(self, download_config):
        assert download_config.force_checksums_validation
        print("progress")

    def as_data_source(self, split):
        self.asked.append(split)
        return [self.record] * 3


@pytest.mark.parametrize("name", RECORDS)
def test_examples(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    builder = Builder(name)
    given = {}
    monkeypatch.setattr(glue, "Glue", lambda **options: given.update(options) or builder)
    dataset = glue.load_glue(name, get_task(name).schema)
    assert given == {"config": name, "version": "2.0.0", "data_dir": tmp_path / "tfds", "file_format": "array_record"}
    dev = "validation_matched" if name == "mnli" else "validation"
    assert builder.asked == ["train", dev, "test_matched" if name == "mnli" else "test"]
    assert list(dataset.splits) == ["train", "dev", "test"]
    assert dataset.splits["dev"][1] == EXAMPLES[name]
    assert dataset.unlabelled == ("test",)
    assert dataset.fingerprint == f"glue/{name}:2.0.0"
    assert not math.isnan(dataset.splits["dev"][0]["label"])
    assert capsys.readouterr().out == ""


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))

    def fail(*args, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(glue, "Glue", fail)
    with pytest.raises(UserError) as raised:
        glue.load_glue("rte", get_task("rte").schema)
    assert str(raised.value) == (
        "--config.task: rte is downloaded through TFDS, as glue/rte, which failed (no route to host); "
        "check the network, or choose a task with files of your own"
    )


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serves a wrong file at every URL; returns the list of requested URLs."""
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    asked = []

    @contextlib.contextmanager
    def open_url(url, **options):
        asked.append(url)
        yield SimpleNamespace(url=url, headers={}), [b"not GLUE"]

    monkeypatch.setattr(downloader, "_open_url", open_url)
    return asked


@pytest.mark.filterwarnings("ignore")  # of TFDS's own
@pytest.mark.parametrize("name", glue.GLUE)
def test_tfds_checks_what_it_downloads(name, served, tmp_path):
    with pytest.raises(UserError, match=rf"glue/{name}, which failed \(https://\S+ has another checksum than"):
        glue.load_glue(name, get_task(name).schema)
    assert served
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.filterwarnings("ignore")
def test_a_download_without_a_registered_checksum(served, monkeypatch):
    monkeypatch.setattr(checksums, "get_all_url_infos", dict)
    monkeypatch.setattr(glue.Glue, "url_infos", {})
    with pytest.raises(UserError, match="Missing checksums url: https://.*RTE.zip"):
        glue.load_glue("rte", get_task("rte").schema)
    assert not served
