"""Corpora: the three kinds by hand, the held-out split, and errors for every kind of bad path."""

import pytest

from bertjax.data.corpus import EDITORIALS, load_corpus, split_sentences
from bertjax.data.problems import BadData
from bertjax.data.sources import split_of
from bertjax.errors import UserError
from bertjax.files import assets

SPLITS = ("train", "dev", "test")


def texts(split, count):
    """Texts "document i" of a split. The first of train is one that a labelled dataset would put into test."""
    by_split = {name: [f"document {i}" for i in range(200) if split_of(f"document {i}") == name] for name in SPLITS}
    documents = by_split["dev"] if split == "dev" else [by_split["test"][0], *by_split["train"]]
    return documents[:count]


ENOUGH = [*texts("train", 3), *texts("dev", 2)]


def write(path, documents):
    path.write_text("\n\n".join("\n".join(lines) for lines in documents) + "\n")


def loaded(corpus):
    return {split: [list(document) for document in members] for split, members in corpus.splits.items()}


def test_a_folder_of_text_files(tmp_path):
    train, dev = texts("train", 3), texts("dev", 2)
    (tmp_path / "b.txt").write_bytes(f"\n\n {train[0]} \r\n\r\n \t\r\n{dev[0]}\r\n".encode())
    (tmp_path / "a.txt").write_bytes(f"\ufeff{train[1]}\n\n{dev[1]}\n\n\n{train[2]}".encode())
    (tmp_path / "notes.md").write_text("no text of ours")
    corpus = load_corpus(str(tmp_path))
    assert loaded(corpus) == {"train": [[train[1]], [train[2]], [train[0]]], "dev": [[dev[1]], [dev[0]]]}
    assert corpus.name == tmp_path.name


def test_lines_are_sentences_and_stay_in_order(tmp_path):
    write(tmp_path / "a.txt", [["One. Two.", "three", "Four"], *([text] for text in ENOUGH)])
    (found,) = [document for document in load_corpus(str(tmp_path)).splits["train"] if len(document) > 1]
    assert found == ("One. Two.", "three", "Four")


def test_the_split_follows_the_text_and_copies_are_dropped(tmp_path):
    write(tmp_path / "a.txt", [[text] for text in [*ENOUGH, *ENOUGH[::-1]]])
    corpus = load_corpus(str(tmp_path))
    assert loaded(corpus) == {"train": [[text] for text in ENOUGH[:3]], "dev": [[text] for text in ENOUGH[3:]]}


def test_the_fingerprint_is_of_the_text(tmp_path):
    def fingerprint(name, members):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.txt", members)
        return load_corpus(str(tmp_path / name)).fingerprint

    members = [[text] for text in ENOUGH]
    first = fingerprint("first", members)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert fingerprint("second", members) == first
    assert fingerprint("third", [*members, ["one", "two"]]) != fingerprint("fourth", [*members, ["one two"]])


def write_ratings(folder, lines):
    (folder / "nytEditorialSnippets_GroundTruth.txt").write_text("".join(f"{line}\r\n" for line in lines))


def test_editorials_are_the_articles_of_the_ratings(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "fetch_asset", {"hutto-2014": tmp_path}.__getitem__)
    lines = [f"{i}_1\t0.5\t{text}" for i, text in enumerate(ENOUGH, 10)]
    write_ratings(tmp_path, ["1_1\t0.4\tFirst.", "1_2\t-3\tSecond.", "100_1\t0\tThird.", *lines])
    corpus = load_corpus("editorials")
    both = [*corpus.splits["train"], *corpus.splits["dev"]]
    assert ("First.", "Second.") in both
    assert ("Third.",) in both
    assert len(both) == 7
    assert corpus.name == "editorials"


def test_a_csv_of_articles(tmp_path):
    path = tmp_path / "own.csv"
    rows = "\n".join(f"{i},{text}" for i, text in enumerate(ENOUGH))
    path.write_text(f'id,article\n{rows}\n9,"He said ""Go."" Then\nhe left, at 3."\n10,\n')
    both = [document for members in load_corpus(str(path)).splits.values() for document in members]
    assert ('He said "Go."', "Then", "he left, at 3.") in both
    assert len(both) == 6


def test_a_csv_of_books(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("article\n" + "\n".join(ENOUGH) + "\n" + "It rained. " * 20_000 + "\n")
    both = [document for members in load_corpus(str(path)).splits.values() for document in members]
    assert max(map(len, both)) == 20_000


def test_the_column_of_multioped(tmp_path):
    path = tmp_path / "dataset.csv"
    rows = "".join(
        f'"A query?\n","a perspective\n",0,"it again\n","{text}. Two.\n"\n' for text in "abcdefghijklmnopqrst"
    )
    path.write_text(f"title,original_text,Support,replaced_text,paragraph\n{rows}")
    both = [document for members in load_corpus(str(path)).splits.values() for document in members]
    assert {document[1] for document in both} == {"Two."}
    assert len(both) == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. We left! Did we? Yes.", ["It rained.", "We left!", "Did we?", "Yes."]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("''Go.'' ''Stay.''", ["''Go.''", "''Stay.''"]),
        ("It rose 3.5 points, e.g. in May. 12 fell.", ["It rose 3.5 points, e.g. in May.", "12 fell."]),
        ("One\n\n  two \nthree", ["One", "two", "three"]),
        ("  ", []),
    ],
)
def test_sentences(text, expected):
    assert list(split_sentences(text)) == expected


def refusal(source):
    with pytest.raises(UserError) as raised:
        load_corpus(str(source))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_bad_path(tmp_path):
    assert f"found no such path: {tmp_path}/x" in refusal(tmp_path / "x")
    (tmp_path / "x.json").write_text("{}")
    assert f"found another kind of file: {tmp_path}/x.json" in refusal(tmp_path / "x.json")
    assert "x.csv: expected a file, found none" in refusal(tmp_path / "x.csv")


def test_a_folder_without_text_files(tmp_path):
    (tmp_path / "a.md").write_text("text")
    assert f"expected .txt files in the folder {tmp_path}, found none" in refusal(tmp_path)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.txt").write_text("\n")
    assert "a.txt: expected rows, found an empty file" in refusal(tmp_path)


def test_text_that_is_not_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ncaf\xe9\n")
    assert "a.txt:3: expected UTF-8, found byte 0xe9" in refusal(tmp_path)


def problems(source):
    with pytest.raises(BadData) as raised:
        load_corpus(str(source))
    return [(problem.file.rpartition("/")[2], problem.line, problem.what) for problem in raised.value.problems]


def test_all_text_files_are_checked(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ncaf\xe9\nt\0wo\n")
    (tmp_path / "b.txt").write_bytes(b"\n")
    write(tmp_path / "c.txt", [[text] for text in ENOUGH])
    (tmp_path / "d.txt").write_bytes(b"\xff")
    assert problems(tmp_path) == [
        ("a.txt", 3, "expected UTF-8, found byte 0xe9"),
        ("a.txt", 4, "expected text, found a NUL byte"),
        ("b.txt", None, "expected rows, found an empty file"),
        ("d.txt", 1, "expected UTF-8, found byte 0xff"),
    ]


def test_a_whole_csv_is_checked(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,article\n1,"one\ntwo",3\n2,"one" two\n\n4\n5,fine\n6,n\0l\n7,caf\xe9\n8,"open\n')
    assert [(line, what.partition(" (")[0]) for _, line, what in problems(path)] == [
        (2, "expected 2 comma-separated columns, found 3"),
        (4, "expected comma-separated values"),
        (6, "expected 2 comma-separated columns, found 1"),
        (8, "expected text, found a NUL byte"),
        (9, "expected UTF-8, found byte 0xe9"),
        (10, "expected comma-separated values"),
    ]
    path.write_text('id,"article" \n1,2,3\n')
    assert [line for _, line, _ in problems(path)] == [1]
    path.write_text('id,text\n1,2,3\n"1"2\n')
    assert [line for _, line, _ in problems(path)] == [1, 2, 3]


def test_a_csv_without_the_column(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n")
    assert "a.csv:1: expected a column article or paragraph, found id, text" in refusal(tmp_path / "a.csv")


def test_a_broken_csv(tmp_path):
    (tmp_path / "a.csv").write_text('article\n"one" two\n')
    assert "a.csv:2: expected comma-separated values" in refusal(tmp_path / "a.csv")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_of_fewer_than_two_documents(tmp_path, split):
    counts = {"train": 3, "dev": 3} | {split: 1}
    write(tmp_path / "a.txt", [[text] for name, count in counts.items() for text in texts(name, count)])
    assert f"expected at least 2 documents in split {split}, found 1 of 4" in refusal(tmp_path)


def test_documents_of_nothing_but_spaces(tmp_path):
    (tmp_path / "a.txt").write_text("  \n \t\n x")
    assert "expected at least 2 documents in split" in refusal(tmp_path)


def test_the_name_of_the_starter_corpus_is_what_the_docs_say():
    assert EDITORIALS == "editorials"


@pytest.mark.parametrize("row", ["One. Two, three.", '"One.",b,c'])
def test_a_csv_row_of_another_width(tmp_path, row):
    path = tmp_path / "corpus.csv"
    path.write_text(f'article,id\n"One. Two.",1\n{row}\n' if "b,c" in row else f"article\nOne.\n{row}\n")
    columns = 2 if "b,c" in row else 1
    with pytest.raises(UserError, match=rf"{path}:3: expected {columns} comma-separated columns, found {columns + 1};"):
        load_corpus(str(path))
