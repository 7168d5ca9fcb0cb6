import dataclasses
import json

import pytest

from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.study import results
from bertjax.study.plan import Trial

CELLS = [Trial(("sst5",), "fine-tune", 0.1, seed, RunConfig(seed=seed, epochs=4)) for seed in range(3)]


def line(cell):
    about = {"settings": cell.settings, "resolved": cell.resolved, "fingerprints": {"sst5": "a"}}
    return {**cell.key._asdict(), **about}


def test_lines_are_read_as_they_were_added(tmp_path):
    root = tmp_path / "study"
    assert results.read_results(root, CELLS) == []
    for cell in CELLS[1:]:
        results.add_result(root, line(cell))
    found = results.read_results(root, CELLS)
    assert found == [line(cell) for cell in CELLS[1:]]
    assert [results.key_of(each) for each in found] == [cell.key for cell in CELLS[1:]]
    assert results.read_results(root, CELLS[:2]) == [line(CELLS[1])]  # what the recipe no longer has


@pytest.mark.parametrize(
    ("config", "told"),
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
def test_other_settings_are_told(tmp_path, config, told):
    results.add_result(tmp_path, line(CELLS[1]))
    with pytest.raises(UserError) as raised:
        results.read_results(tmp_path, [dataclasses.replace(CELLS[1], config=config)])
    assert str(raised.value) == (
        f"{tmp_path / 'cells.jsonl'}: sst5 fine-tune 0.1 1 was run with other settings than the recipe's: {told}; give "
        "another --workdir, or the method another name"
    )


def test_settings_that_meant_something_else_are_told(tmp_path):
    smart = dataclasses.replace(RunConfig().smart, preset="bertjax")
    cell = Trial(("sst5",), "smart", 0.1, 0, RunConfig(smart=smart))
    old = line(cell)
    assert old["resolved"]["smart"]["start"] == "task_gradient"
    old["resolved"]["smart"] |= {"radius": 0.5}
    results.add_result(tmp_path, old)
    with pytest.raises(
        UserError, match=r"sst5 smart 0.1 0 was run by a version .*: smart.radius was 0.5, is 0.02; rem"
    ):
        results.read_results(tmp_path, [cell])


def test_a_raw_score_is_not_mixed_with_standardised_ones(tmp_path):
    cell = Trial(("sts",), "fine-tune", 0.1, 0, RunConfig(task="sts"))
    assert cell.resolved == {"scores": "standardised"}
    old = line(cell)
    del old["resolved"]
    results.add_result(tmp_path, old)
    with pytest.raises(
        UserError, match="sts fine-tune 0.1 0 was run by .*: scores was not recorded, is 'standardised'; rem"
    ):
        results.read_results(tmp_path, [cell])
    assert CELLS[0].resolved == {}  # plain fine-tuning on classes means what it did


def test_a_cell_that_stands_twice_is_told_by_its_lines(tmp_path):
    """As where the results of two machines were joined; a blank line counts as one."""
    for place in (0, 1):
        results.add_result(tmp_path, line(CELLS[place]))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write("\n" + json.dumps(line(CELLS[0])))
    with pytest.raises(UserError, match=r"cells.jsonl:4: expected one line a cell, found sst5 .* 0 in line 1 already"):
        results.read_results(tmp_path, CELLS)


def test_a_file_that_lost_its_last_line_end_is_added_to(tmp_path):
    results.add_result(tmp_path, line(CELLS[0]))
    path = tmp_path / "cells.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    results.add_result(tmp_path, line(CELLS[1]))
    assert results.read_results(tmp_path, CELLS) == [line(CELLS[0]), line(CELLS[1])]


def test_a_value_in_the_place_of_several_is_told(tmp_path):
    cell = dataclasses.replace(
        CELLS[1], config=RunConfig(seed=1, smart=dataclasses.replace(RunConfig().smart, every=2))
    )
    results.add_result(tmp_path, line(cell) | {"settings": {"smart": 3}})
    with pytest.raises(UserError, match=r"smart was 3, is {'every': 2}; give another --workdir"):
        results.read_results(tmp_path, [cell])


def test_other_data_are_told(tmp_path):
    results.add_result(tmp_path, line(CELLS[0]))
    results.add_result(tmp_path, line(CELLS[1]) | {"fingerprints": {"sst5": "b"}})
    told = r"cells.jsonl:2: sst5 fine-tune 0.1 1 was run on other data of sst5 than cells before it; give another"
    with pytest.raises(UserError, match=told):
        results.read_results(tmp_path, CELLS)


def test_any_text_is_read_back(tmp_path):
    results.add_result(tmp_path, line(CELLS[0]) | {"warnings": ["a\u2028b\x85c\u00e9"]})
    (found,) = results.read_results(tmp_path, CELLS)
    assert found["warnings"] == ["a\u2028b\x85c\u00e9"]
    (tmp_path / "cells.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="cells.jsonl: expected UTF-8, found something else; restore it"):
        results.read_results(tmp_path, CELLS)


def test_data_elsewhere_are_no_other_settings(tmp_path):
    results.add_result(tmp_path, line(CELLS[1]))
    moved = dataclasses.replace(CELLS[1], config=dataclasses.replace(CELLS[1].config, data_dir="elsewhere"))
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
def test_a_line_of_something_else_is_told(tmp_path, text):
    results.add_result(tmp_path, line(CELLS[0]))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write(text)
    with pytest.raises(
        UserError, match=r"cells.jsonl:2: expected the results of a cell as JSON, found '.*'; remove the line"
    ):
        results.read_results(tmp_path, CELLS)
