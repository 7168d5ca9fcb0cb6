"""Warnings about evaluation data that earlier training saw."""

from bertjax.data.leakage import contamination_warnings

STARTER = {"init_from": "minilm-l6", "note": "its own training saw Quora duplicates, SNLI and MultiNLI"}


def test_gold_sst_after_its_own_sentences():
    lineage = [STARTER, {"trained_on": "rated_sst", "fingerprint": "x"}, {"trained_on": "sst5", "fingerprint": "y"}]
    assert contamination_warnings(lineage, ["sst5"]) == [
        "sst5: this model was trained on rated_sst, which holds gold SST's sentences, dev and test included"
    ]


def test_further_pretraining_counts_too():
    lineage = [{"init_from": "x"}, {"pretrained_on": "rated_sst", "fingerprint": "x"}]
    assert len(contamination_warnings(lineage, ["sst5", "cfimdb"])) == 1


def test_a_run_does_not_warn_about_its_own_data():
    assert contamination_warnings([STARTER, {"trained_on": "sst5"}, {"trained_on": "sts"}], ["sst5", "sts"]) == []


def test_data_that_the_starter_saw():
    expected = ["quora: the starter model's own training saw Quora duplicates, SNLI and MultiNLI"]
    assert contamination_warnings([STARTER, {"trained_on": "quora"}], ["quora", "sts"]) == expected
    assert contamination_warnings([{"init_from": "bert-base-uncased"}, {"trained_on": "quora"}], ["quora"]) == []


def test_one_source_under_two_names():
    assert len(contamination_warnings([{"trained_on": "qqp"}, {"trained_on": "sts"}], ["quora", "stsb", "sts"])) == 2
