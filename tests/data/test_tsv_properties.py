"""Properties of the readers for any file: what was written is read, and bad bytes raise nothing but `UserError`."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertjax.data.corpus import load_corpus
from bertjax.data.tsv import Row, class_parser, read_course_file, read_table
from bertjax.errors import UserError
from bertjax.tasks import Schema

SEPARATORS = "\t\n\0"
FIELDS = st.text(st.characters(codec="utf-8", exclude_characters=SEPARATORS)).filter(str.strip)
ROWS = st.lists(st.tuples(FIELDS.map(str.strip), FIELDS, st.integers(0, 4)), min_size=1, unique_by=lambda row: row[0])
TABLE = Schema(("text", "other"), "score", low=-1, high=1)
# Parts of dirty files; some are valid.
CHUNKS = st.sampled_from(
    [
        *(b"\tid\tsentence\tsentiment\n", b"0\ta\tfilm\t4\n", b"1\tb\tfilm\t0\n"),
        *(b"text\tother\tscore\tid\n", b"one\ttwo\t0.5\tx\n", b"id,article\n", b'1,"one. Two."\n'),
        *(b"\t", b"\n", b"\r", b'"', b",", b" ", b"a", b"3", b"-1", b"nan", b"1e999", "٣".encode(), b"x" * 99),
        *(b"\xff", b"\0", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8"),
    ]
)
FILES = st.one_of(st.binary(), st.lists(CHUNKS, max_size=25).map(b"".join))


def read(path, on_bad_row="error"):
    return read_course_file(
        path, texts=("sentence",), label="sentiment", parse_label=class_parser(5), on_bad_row=on_bad_row
    )


@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), is_ended=st.booleans())
@example(rows=[("\ufeff", '"\x85\u2028\r"', 0)], end="\r\n", bom=True, is_ended=False)
@settings(max_examples=150)
def test_what_was_written_is_read(tmp_path_factory, rows, end, bom, is_ended):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    lines = ["\tid\tsentence\tsentiment", *(f"{i}\t{a}\t{b}\t{c}" for i, (a, b, c) in enumerate(rows))]
    path.write_bytes((end.join(lines) + end * is_ended).encode("utf-8-sig" if bom else "utf-8"))
    assert read(path) == ([Row(name, (text,), label) for name, text, label in rows], [])


def outcome(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except UserError:
        return None


@given(data=FILES)
@settings(max_examples=300)
def test_no_bytes_cause_a_traceback_or_a_bad_row(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    for reader, options in (
        (read, {}),
        (read_table, {"schema": TABLE, "id_column": "id"}),
        (read_table, {"schema": TABLE, "id_column": None}),
    ):
        strict, lax = (outcome(reader, path, on_bad_row=mode, **options) for mode in ("error", "skip"))
        if lax is None:
            assert strict is None
            continue
        rows, skipped = lax
        assert strict == (None if skipped else lax)
        assert len(rows) + len(skipped) == data.rstrip(b"\r\n").count(b"\n")
        assert len({row.id for row in rows}) == len(rows) > 0
        for row in rows:
            assert row.id.strip()
            assert all(text.strip() and not set(text) & set(SEPARATORS) for text in row.texts)
            assert row.label in range(5) if reader is read else -1 <= row.label <= 1


@given(data=FILES)
@settings(max_examples=200)
def test_no_corpus_causes_a_traceback(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "corpus"
    folder.mkdir(exist_ok=True)
    for path, source in ((folder / "any.txt", folder), (folder / "any.csv", folder / "any.csv")):
        path.write_bytes(data)
        outcome(load_corpus, str(source))


@given(documents=st.lists(st.lists(FIELDS.map(lambda text: " ".join(text.split())), min_size=1), min_size=1))
@settings(max_examples=100)
def test_a_corpus_that_was_written_is_read(tmp_path_factory, documents):
    folder = tmp_path_factory.getbasetemp() / "written"
    folder.mkdir(exist_ok=True)
    # Enough documents for both splits.
    documents += [[f"document {i}"] for i in range(60)]
    blocks = ["\n".join(document) for document in documents]
    (folder / "a.txt").write_bytes("\n\n".join(blocks).encode())
    splits = load_corpus(str(folder)).splits
    expected = {tuple(document) for document in documents}
    assert set(splits["train"]) | set(splits["dev"]) == expected
    assert len(splits["train"]) + len(splits["dev"]) == len(expected)
