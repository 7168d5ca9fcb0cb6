import dataclasses
import json

import pytest

from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.study import results
from bertjax.study.plan import Trial

TRIALS = [Trial(("sst5",), "fine-tune", 0.1, seed, RunConfig(seed=seed, epochs=4)) for seed in range(3)]


def line(trial):
    about = {"settings": trial.settings, "resolved": trial.resolved, "fingerprints": {"sst5": "a"}}
    return {**trial.key._asdict(), **about}


def test_lines_are_read_as_they_were_added(tmp_path):
    root = tmp_path / "study"
    assert results.read_results(root, TRIALS) == []
    for trial in TRIALS[1:]:
        results.add_result(root, line(trial))
    found = results.read_results(root, TRIALS)
    assert found == [line(trial) for trial in TRIALS[1:]]
    assert [results.trial_key(each) for each in found] == [trial.key for trial in TRIALS[1:]]
    assert results.read_results(root, TRIALS[:2]) == [line(TRIALS[1])]  # one is not in the plan


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (RunConfig(seed=1, epochs=5), "epochs was 4, is 5"),
        (RunConfig(seed=1), "epochs was 4, is the default"),
        (
            RunConfig(seed=1, epochs=4, smart=dataclasses.replace(RunConfig().smart, preset="r3f")),
            "smart.preset was the default, is 'r3f'",
        ),
        (
            RunConfig(seed=1, epochs=4, columns=dataclasses.replace(RunConfig().columns, text="body")),
            "columns.text was the default, is 'body'",
        ),
    ],
)
def test_other_settings_are_refused(tmp_path, config, difference):
    results.add_result(tmp_path, line(TRIALS[1]))
    with pytest.raises(UserError) as raised:
        results.read_results(tmp_path, [dataclasses.replace(TRIALS[1], config=config)])
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'cells.jsonl'}: sst5 fine-tune 0.1 1 was run with other settings")
    assert f": {difference};" in message
    assert "--workdir" in message


def test_settings_that_meant_something_else_are_refused(tmp_path):
    smart = dataclasses.replace(RunConfig().smart, preset="bertjax")
    trial = Trial(("sst5",), "smart", 0.1, 0, RunConfig(smart=smart))
    old = line(trial)
    assert old["resolved"]["smart"]["start"] == "task_gradient"
    old["resolved"]["smart"] |= {"radius": 0.5}
    results.add_result(tmp_path, old)
    with pytest.raises(UserError, match=r"cells.jsonl:1: sst5 smart .*: smart.radius was 0.5, is 0.02;"):
        results.read_results(tmp_path, [trial])


def test_a_raw_score_is_not_mixed_with_standardised_ones(tmp_path):
    trial = Trial(("sts",), "fine-tune", 0.1, 0, RunConfig(task="sts"))
    assert trial.resolved == {"scores": "standardised"}
    old = line(trial)
    del old["resolved"]
    results.add_result(tmp_path, old)
    with pytest.raises(UserError, match="sts fine-tune 0.1 0 .*: scores was not recorded, is 'standardised';"):
        results.read_results(tmp_path, [trial])
    assert TRIALS[0].resolved == {}  # plain fine-tuning on classes means what it did


def test_a_duplicate_is_refused_with_both_line_numbers(tmp_path):
    """As when results of two machines are joined. Blank lines count."""
    for place in (0, 1):
        results.add_result(tmp_path, line(TRIALS[place]))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write("\n" + json.dumps(line(TRIALS[0])))
    with pytest.raises(UserError, match=r"cells.jsonl:4: .*sst5 fine-tune 0.1 0 in line 1 "):
        results.read_results(tmp_path, TRIALS)


def test_a_file_that_lost_its_last_line_end_is_added_to(tmp_path):
    results.add_result(tmp_path, line(TRIALS[0]))
    path = tmp_path / "cells.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    results.add_result(tmp_path, line(TRIALS[1]))
    assert results.read_results(tmp_path, TRIALS) == [line(TRIALS[0]), line(TRIALS[1])]


def test_a_value_in_place_of_a_section_is_refused(tmp_path):
    trial = dataclasses.replace(
        TRIALS[1], config=RunConfig(seed=1, smart=dataclasses.replace(RunConfig().smart, every=2))
    )
    results.add_result(tmp_path, line(trial) | {"settings": {"smart": 3}})
    with pytest.raises(UserError, match=r"smart was 3, is {'every': 2}; .*--workdir"):
        results.read_results(tmp_path, [trial])


def test_other_data_are_refused(tmp_path):
    results.add_result(tmp_path, line(TRIALS[0]))
    results.add_result(tmp_path, line(TRIALS[1]) | {"fingerprints": {"sst5": "b"}})
    with pytest.raises(UserError, match="cells.jsonl:2: sst5 fine-tune 0.1 1 was run on other data of sst5 "):
        results.read_results(tmp_path, TRIALS)


def test_any_text_is_read_back(tmp_path):
    results.add_result(tmp_path, line(TRIALS[0]) | {"warnings": ["a\u2028b\x85c\u00e9"]})
    (found,) = results.read_results(tmp_path, TRIALS)
    assert found["warnings"] == ["a\u2028b\x85c\u00e9"]
    (tmp_path / "cells.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="cells.jsonl: expected UTF-8"):
        results.read_results(tmp_path, TRIALS)


def test_the_place_of_the_data_is_not_a_setting(tmp_path):
    results.add_result(tmp_path, line(TRIALS[1]))
    moved = dataclasses.replace(TRIALS[1], config=dataclasses.replace(TRIALS[1].config, data_dir="elsewhere"))
    assert len(results.read_results(tmp_path, [moved])) == 1
    assert json.loads((tmp_path / "cells.jsonl").read_text())["settings"] == {"epochs": 4}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "3",
        '{"tasks": "sst5"}',
        '{"tasks": "sst5", "method": "fine-tune", "share": 0.1, "seed": 1, "settings": 3, "fingerprints": {}}',
        '{"tasks": "a", "method": "b", "share": 1, "seed": 0}',
    ],
)
def test_a_line_of_something_else_is_refused(tmp_path, text):
    results.add_result(tmp_path, line(TRIALS[0]))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write(text)
    with pytest.raises(UserError, match=r"cells.jsonl:2: expected .* JSON, found '.*'; remove the line"):
        results.read_results(tmp_path, TRIALS)
