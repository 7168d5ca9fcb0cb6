"""One message for all problems."""

import pytest

from bertjax.data.problems import BadData, Problem, collecting, raise_if_any
from bertjax.errors import UserError

FIX = "fix the row"


def test_one_problem_is_one_line():
    problem = Problem("a.csv", 3, "x: expected y, found z", FIX, is_row=True)
    assert str(BadData([problem])) == "a.csv:3: x: expected y, found z; fix the row or pass --config.on_bad_row=skip"
    assert str(BadData([problem._replace(is_row=False)])) == "a.csv:3: x: expected y, found z; fix the row"
    assert str(BadData([Problem("a.csv", None, "expected y, found z")])) == "a.csv: expected y, found z"
    assert str(BadData([problem, problem])) == str(BadData([problem]))  # one file may be read twice


def test_several_problems_have_a_line_each():
    rows = [Problem("a.csv", line, "bad", FIX, is_row=True) for line in (2, 2, 3)]
    rows[1] = rows[1]._replace(what="worse")
    others = [Problem("b.csv", 1, "no header", "give it one"), Problem("b.csv", None, "short")]
    assert str(BadData([*rows, *others])).splitlines() == [
        "5 problems in the data; fix them all, or all but the 2 bad rows and pass --config.on_bad_row=skip",
        "a.csv:2: bad",
        "a.csv:2: worse",
        "a.csv:3: bad",
        "b.csv:1: no header; give it one",
        "b.csv: short",
    ]
    assert str(BadData(others)).startswith("2 problems in the data; fix them all\n")
    first, *_ = str(BadData(rows[:2])).splitlines()
    assert first.startswith("2 problems in the data; fix them all, or pass --config.on_bad_row=skip ")
    assert first.endswith(" the 1 bad row")


def test_at_most_fifty_a_file_are_shown():
    problems = [Problem(file, line, "bad", FIX, is_row=True) for file in ("a", "b", "c") for line in range(1, 51)]
    lines = str(BadData([*problems, Problem("b", 51, "bad", FIX), Problem("b", 52, "bad", FIX)])).splitlines()
    assert lines[0].startswith("152 problems in the data")
    assert [line for line in lines if "more" in line] == ["… and 2 more in b"]
    assert len(lines) == 1 + 3 * 50 + 1
    assert lines[101] == "… and 2 more in b"


def test_problems_are_collected_and_other_errors_pass():
    problems = []
    for number in range(3):
        with collecting(problems):
            raise_if_any([Problem("a", number, "bad")] if number else [])
    assert [problem.line for problem in problems] == [1, 2]
    with pytest.raises(UserError, match="^a flag$"), collecting(problems):
        raise UserError("a flag")
    with pytest.raises(BadData, match="^2 problems in the data; fix them all\na:1: bad\na:2: bad$"):
        raise_if_any(problems)
