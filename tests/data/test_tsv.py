"""Readers of tab-separated files: what they accept, and the one-line errors for everything else."""

import pytest

from bertjax.data.problems import BadData
from bertjax.data.tsv import Row, class_parser, read_course_file, read_header, read_ratings, read_table, score_parser
from bertjax.errors import UserError
from bertjax.tasks import Schema

HEADER = "\tid\tsentence\tsentiment\n"
FIX = "; fix the row or pass --config.on_bad_row=skip"


def write(tmp_path, content):
    path = tmp_path / "ids.csv"
    # A lone surrogate stands for a byte that is not UTF-8.
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogateescape"))
    return path


def read(path, on_bad_row="error"):
    return read_course_file(
        path, texts=("sentence",), label="sentiment", parse_label=class_parser(5), on_bad_row=on_bad_row
    )


def message(call, *args, **kwargs):
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_texts_are_read_unchanged(tmp_path):
    path = write(tmp_path, HEADER + '0\ta1\t A "quoted film , \\/ \t3\n1\ta2\t"Zoë\u2028\x85 said\t0.0\n')
    rows, skipped = read(path)
    assert rows == [Row("a1", (' A "quoted film , \\/ ',), 3), Row("a2", ('"Zoë\u2028\x85 said',), 0)]
    assert all(type(row.label) is int for row in rows)
    assert skipped == []
    assert read_header(path) == ("", "id", "sentence", "sentiment")


@pytest.mark.parametrize(
    "content",
    [
        "\tid\tsentence\tsentiment\n0\ta\tgood film\t4",
        "\tid\tsentence\tsentiment\r\n0\ta\tgood film\t4\r\n",
        "\ufeff\tid\tsentence\tsentiment\n0\ta\tgood film\t4\n\n\r\n",
        "\tid \t sentence\tsentiment\n0\t a \tgood film\t 4 \n",
    ],
    ids=["no last newline", "CRLF", "BOM and blank end", "spaces"],
)
def test_forms_of_a_file(tmp_path, content):
    assert read(write(tmp_path, content)) == ([Row("a", ("good film",), 4)], [])


def test_pairs_with_a_score(tmp_path):
    path = write(tmp_path, "\tid\tsentence1\tsentence2\tsimilarity\n0\tp\tone\ttwo\t2.5\n")
    rows, _ = read_course_file(
        path, texts=("sentence1", "sentence2"), label="similarity", parse_label=score_parser(0, 5)
    )
    assert rows == [Row("p", ("one", "two"), 2.5)]


QUOTED = " (quotation marks are ordinary characters: "
BAD_ROWS = {
    "0\tb\tfilm\t": "sentiment: expected a label, found none",
    "0\tb\tfilm\t  ": "sentiment: expected a label, found none",
    "0\tb\tfilm": "expected 4 tab-separated columns, found 3",
    "0\tb\tfi\tlm\t3": "expected 4 tab-separated columns, found 5",
    "": "expected 4 tab-separated columns, found 1",
    "0\tb\t \t3": "sentence: expected text, found none",
    "0\tb\tfilm\tgood": "sentiment: expected a whole number from 0 to 4, found 'good'",
    "0\tb\tfilm\tnan": "sentiment: expected a whole number from 0 to 4, found 'nan'",
    "0\tb\tfilm\tinf": "sentiment: expected a whole number from 0 to 4, found 'inf'",
    "0\tb\tfilm\t2.5": "sentiment: expected a whole number from 0 to 4, found '2.5'",
    "0\tb\tfilm\t5": "sentiment: expected a whole number from 0 to 4, found '5'",
    "0\tb\tfilm\t-1": "sentiment: expected a whole number from 0 to 4, found '-1'",
    "0\tb\tfilm\t1\r2": "sentiment: expected a whole number from 0 to 4, found '1\\r2'",
    '0\tb\t"a\tfilm"\t3': "expected 4 tab-separated columns, found 5" + QUOTED,
    '0\tb\t"a film': "expected 4 tab-separated columns, found 3" + QUOTED,
    '0\tb\tfi"\tlm\t3': "expected 4 tab-separated columns, found 5",
    "0\tb\tcaf\udce9\t3": "expected UTF-8, found byte 0xe9",
    "0\tb\t\udcff\udcfe": "expected UTF-8, found byte 0xff",
    "0\tb\tfi\0lm\t3": "expected text, found a NUL byte",
    "0\t \tfilm\t3": "id: expected an id, found none",
    "0\ta \tfilm\t3": "id: expected unique ids, found 'a' in line 2",
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.items())
def test_a_bad_row_is_an_error_or_skipped(tmp_path, row, reason):
    path = write(tmp_path, f"{HEADER}0\ta\tgood\t4\n{row}\n1\tc\tfine\t3\n")
    text = message(read, path)
    assert text.startswith(f"{path}:3: {reason}")
    assert text.endswith(FIX)
    rows, skipped = read(path, "skip")
    assert [row.id for row in rows] == ["a", "c"]
    assert skipped == [text.removesuffix(FIX)]


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ("", "", "found an empty file"),
        ("\r\n\n", "", "found an empty file"),
        (HEADER, "", "found only a header"),
        ("\tid\tsentence\n0\ta\tfilm\n", ":1", "(unnamed), id, sentence, sentiment, found (unnamed), id, sentence;"),
        ("id\tsentence\tsentiment\na\tfilm\t1\n", ":1", "found id, sentence, sentiment;"),
        ("n\tid\tsentence\tsentiment\n0\ta\tfilm\t1\n", ":1", "found n, id, sentence, sentiment;"),
        ("0\ta\tfilm\t1\n", ":1", "found 0, a, film, 1;"),
        (
            b"\tid\tsent\xe9nce\tsentiment\n0\ta\tfilm\t1\n",
            ":1",
            "expected UTF-8, found byte 0xe9; save the file",
        ),
        (
            (HEADER + "0\ta\tfilm\t1\n").encode("utf-16-le"),
            ":1",
            "expected text, found a NUL byte; save the file",
        ),
        ((HEADER + "0\ta\tfilm\t1\n").encode("utf-16"), ":1", "expected UTF-8, found byte 0xff"),
    ],
)
def test_a_bad_file_is_an_error_whatever_the_mode(tmp_path, on_bad_row, content, where, what):
    path = write(tmp_path, content)
    text = message(read, path, on_bad_row)
    assert text.startswith(f"{path}{where}: ")
    assert what in text


def problems(call, *args, **kwargs):
    with pytest.raises(BadData) as raised:
        call(*args, **kwargs)
    return raised.value.problems


def test_all_bad_rows_are_reported_at_once(tmp_path):
    path = write(tmp_path, HEADER + "0\ta\t\t9\n1\tb\tfilm\t1\n2\tb\tfilm\n3\t\tfilm\t\n4\tb\tfilm\t1\n5\ta\tfilm\t1\n")
    expected = [
        (2, "sentence: expected text, found none"),
        (2, "sentiment: expected a whole number from 0 to 4, found '9'"),
        (4, "expected 4 tab-separated columns, found 3"),
        (5, "id: expected an id, found none"),
        (5, "sentiment: expected a label, found none"),
        (6, "id: expected unique ids, found 'b' in line 3 too"),
        (7, "id: expected unique ids, found 'a' in line 2 too"),
    ]
    found = problems(read, path)
    assert [(problem.line, problem.what) for problem in found] == expected
    assert all(problem.file == str(path) and problem.is_row for problem in found)
    rows, skipped = read(path, "skip")
    assert [row.id for row in rows] == ["b"]
    assert len(skipped) == 5
    assert skipped[0] == f"{path}:2: {expected[0][1]}; {expected[1][1]}"


@pytest.mark.parametrize(
    ("header", "reasons"),
    [
        # Another order, no index, another name or a column twice: the other columns are still checked.
        ("sentiment\tid\tsentence", ["sentiment: expected a label, found none", "sentence: expected text, found none"]),
        ("n\tid\tsentiment\tsentence", ["expected 4 tab-separated columns, found 3"] * 2),
        ("label\tid\tsentence", ["sentence: expected text, found none"]),
        ("sentiment\tid\tid", ["sentiment: expected a label, found none"]),
    ],
)
def test_rows_under_another_header_are_checked_by_its_names(tmp_path, header, reasons):
    path = write(tmp_path, f"{header}\n\ta\tfilm\n3\tb\t \n")
    first, *rest = problems(read, path)
    assert (first.line, first.is_row) == (1, False)
    assert [problem.what for problem in rest] == reasons
    assert problems(read, path, "skip") == (first,)


def test_no_usable_row_is_an_error(tmp_path):
    path = write(tmp_path, f"{HEADER}0\ta\tgood\t7\n1\tb\t\t1\n")
    text = message(read, path, "skip")
    assert text.startswith(f"{path}: expected rows, found 2, all of them bad, ")
    assert f"{path}:2: sentiment: expected a whole number" in text


def test_no_file(tmp_path):
    assert message(read, tmp_path / "none.csv").startswith(f"{tmp_path / 'none.csv'}: expected a file, found none")
    assert message(read, tmp_path).startswith(f"{tmp_path}: expected a readable file, found: ")


def test_unknown_mode(tmp_path):
    path = write(tmp_path, f"{HEADER}0\ta\tgood\t4\n")
    assert message(read, path, "skipp") == "--config.on_bad_row: expected error or skip, found 'skipp'"


def test_a_message_stays_short(tmp_path):
    assert len(message(read, write(tmp_path, "x" * 100_000))) < 400 + len(str(tmp_path))
    assert len(message(read, write(tmp_path, f"{HEADER}0\ta\tb\t{'y' * 100_000}\n"))) < 400 + len(str(tmp_path))


def test_score_bounds():
    assert [score_parser(0, 5)(text) for text in ("0", "5", " 4.25 ", "1e-3")] == [0, 5, 4.25, 0.001]
    for text in ("-0.1", "5.1", "nan", "inf", "five"):
        with pytest.raises(ValueError, match="expected a number from 0 to 5, found"):
            score_parser(0, 5)(text)


def test_ratings(tmp_path):
    path = write(tmp_path, "1\t2.26666666667\tThe Rock's ''Conan''\r\n2\t-0.6\tUn café\r\n3\t-4\tNo.")
    rows, skipped = read_ratings(path)
    assert [(row.id, row.texts) for row in rows] == [
        ("1", ("The Rock's ''Conan''",)),
        ("2", ("Un café",)),
        ("3", ("No.",)),
    ]
    assert [row.label for row in rows] == pytest.approx([34 / 15, -3 / 5, -4])
    assert skipped == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1\t4.5\tfilm", "rating: expected a number from -4 to 4, found '4.5'"),
        ("1\t2.0", "expected 3 tab-separated columns, found 2"),
    ],
)
def test_a_bad_rating(tmp_path, row, reason):
    path = write(tmp_path, f"{row}\r\n2\t1.0\tgood\r\n")
    assert message(read_ratings, path) == f"{path}:1: {reason}{FIX}"
    rows, skipped = read_ratings(path, on_bad_row="skip")
    assert [row.id for row in rows] == ["2"]
    assert skipped == [f"{path}:1: {reason}"]


TABLE = Schema(("body",), "mood", ("bad", "good"))


def test_an_own_table(tmp_path):
    path = write(tmp_path, 'note\tmood\tbody\nx\tgood\t a film\ny\t0\t"b\n')
    assert read_table(path, schema=TABLE, id_column=None) == ([Row("1", (" a film",), 1), Row("2", ('"b',), 0)], [])
    assert read_table(path, schema=TABLE, id_column="note")[0][1].id == "y"
    pairs = Schema(("body", "note"), "mood", low=0, high=5)
    path = write(tmp_path, "note\tmood\tbody\nx\tbad\ta\ny\t4.5\tb\n")
    rows, skipped = read_table(path, schema=pairs, id_column=None, on_bad_row="skip")
    assert rows == [Row("2", ("b", "y"), 4.5)]
    assert skipped == [f"{path}:2: mood: expected a number from 0 to 5, found 'bad'"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            "bodi\tmood\na\tgood\n",
            ":1: expected a header with one tab-separated column 'body', found bodi, mood; did you mean 'bodi'?; "
            "name the right one with --config.columns",
        ),
        (
            "body\tmood\tbody\na\tgood\tb\n",
            ":1: expected a header with one tab-separated column 'body', found several; "
            "name the right one with --config.columns",
        ),
        (
            "body\tmood\na\tgood\nb\tgod\n",
            ":3: mood: expected one of bad, good, or its number from 0, found 'god'" + FIX,
        ),
        ("body\tmood\na\n", ":2: expected 2 tab-separated columns, found 1" + FIX),
        ("body\tmood\n \tgood\n", ":2: body: expected text, found none" + FIX),
        ("body\tmood\n", ": expected rows, found only a header; add rows"),
        ("", ": expected rows, found an empty file; add rows"),
    ],
)
def test_a_bad_table(tmp_path, content, what):
    path = write(tmp_path, content)
    assert message(read_table, path, schema=TABLE, id_column=None) == f"{path}{what}"


def test_ids_of_a_table(tmp_path):
    path = write(tmp_path, "note\tmood\tbody\nx\tgood\ta\nx\tbad\tb\n")
    assert [row.id for row in read_table(path, schema=TABLE, id_column=None)[0]] == ["1", "2"]
    text = message(read_table, path, schema=TABLE, id_column="note")
    assert text.startswith(f"{path}:3: note: expected unique ids, found 'x' in line 2")


def test_every_missing_column_is_reported(tmp_path):
    path = write(tmp_path, "bodi\tmod\na\tgood\n")
    found = problems(read_table, path, schema=TABLE, id_column="note")
    assert [problem.what.partition(",")[0].split()[-1] for problem in found] == ["'body'", "'mood'", "'note'"]


def test_class_names_that_are_numbers_are_not_indices(tmp_path):
    stars = Schema(("body",), "stars", ("1", "2"))
    path = write(tmp_path, "body\tstars\na\t1\nb\t2\nc\t0\n")
    rows, skipped = read_table(path, schema=stars, id_column=None, on_bad_row="skip")
    assert [row.label for row in rows] == [0, 1]
    assert skipped == [f"{path}:4: stars: expected one of 1, 2, found '0'"]
    signs = Schema(("body",), "sign", ("+1", "-1"))
    path = write(tmp_path, "body\tsign\na\t+1\nb\t-1\nc\t1\n")
    rows, skipped = read_table(path, schema=signs, id_column=None, on_bad_row="skip")
    assert [row.label for row in rows] == [0, 1]
    assert skipped == [f"{path}:4: sign: expected one of +1, -1, found '1'"]
