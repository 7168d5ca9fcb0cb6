import pytest

from bertjax.errors import UserError, did_you_mean, reason, shown


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("naïve 映画 ε = 0.1", "naïve 映画 ε = 0.1"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\ud800\u2028\x00", r"\ud800\u2028\x00"),
        ("x" * 5000, "x" * 4000 + "…"),
    ],
)
def test_a_message_is_one_printable_line(text, printed):
    assert str(UserError(text)) == printed
    printed.encode()


def test_deep_and_long_values_are_shown_short():
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    assert shown("a\n") == r"'a\n'"
    assert shown([1, "b", None]) == "[1, 'b', None]"
    assert len(shown(deep)) < 100
    assert len(shown(["x" * 10**6] * 10**5)) < 1000
    assert shown(10**5000) == "a huge int"


def test_the_reason_of_another_library_s_error_is_one_short_line():
    assert reason(ValueError("two\n  lines")) == "two lines"
    assert reason(TimeoutError()) == "TimeoutError"
    assert reason(ValueError("INTERNAL: [os_error_code='28'] [source locations='…']")) == "No space left on device"
    assert len(reason(ValueError("x" * 10**6))) == 201


def test_did_you_mean_suggests_the_most_similar_name():
    assert did_you_mean("epoch", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert did_you_mean("x" * 10**7, ["epochs", "x" * 80]) == f"; did you mean '{'x' * 80}'?"
    assert did_you_mean("zzz", ["epochs"]) == ""
