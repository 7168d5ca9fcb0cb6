"""Shapes of JSON: what fits, and one refusal for each way not to."""

from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.files.json_files import check_shape

FILE = Path("a.json")


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("a", str),
        (3, int),
        (3, float),
        (0.5, float),
        ([], [str]),
        (["a", "b"], [str]),
        ({"more": None, "a": 1}, {"a": int}),
        ({}, {"a?": int}),
        ({"a?": None}, {"a?": int}),
        ({"x": 0.5, "y": 1, "a": 2}, {"a": int, str: float}),
        ({"x": [{"y": "z"}]}, {str: [{str: str}]}),
    ],
)
def test_what_fits(value, shape):
    check_shape(value, shape, FILE, "fix it")


@pytest.mark.parametrize(
    ("value", "shape", "complaint"),
    [
        (None, str, "a string, found None"),
        (True, int, "a whole number, found True"),
        (1.0, int, "a whole number, found 1.0"),
        (True, float, "a number, found True"),
        ({}, [str], "a list, found {}"),
        ("ab", [str], "a list, found 'ab'"),
        ([], {"a": int}, "an object, found []"),
        (["a", 3], [str], "a string as [1], found 3"),
        ({}, {"a": int}, "a, found none"),
        ({"a": None}, {"a?": int}, "a whole number as a, found None"),
        ({"a": 0.5, "x": 1}, {"a": int, str: float}, "a whole number as a, found 0.5"),
        ({"a": 1, "x": "1"}, {"a": int, str: float}, "a number as x, found '1'"),
        ({"x": [{"y": 3}]}, {str: [{str: str}]}, "a string as x[0].y, found 3"),
        ({"x": {"y": {}}}, {str: {str: {"z": int}}}, "x.y.z, found none"),
    ],
)
def test_what_does_not_fit(value, shape, complaint):
    with pytest.raises(UserError) as raised:
        check_shape(value, shape, FILE, "fix it")
    assert str(raised.value) == f"a.json: expected {complaint}; fix it"
