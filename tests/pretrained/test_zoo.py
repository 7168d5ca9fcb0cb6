"""Checkpoints of many kinds: each gives what Transformers gives, before and after export and convert, or is refused.

With Transformers and PyTorch installed, they are the oracle. Without, the folders are read, converted and exported, and
compared with what was read at first.
"""

import pytest
import tiny_families
import zoo

from bertjax.errors import UserError
from bertjax.pretrained.check import check_checkpoint

RANDOM = 40


def outcome(folder, capsys):
    """How a check ends: "equal", "warned" or "refused"; fails if anything differs without a word."""
    capsys.readouterr()
    try:
        comparisons = list(check_checkpoint(str(folder)))
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"refused in several lines: {error}"
    warning = capsys.readouterr().err
    differing = [each for each in comparisons if each.is_equal is False]
    # Versions of Transformers may read a source differently, if we say so; an export must leave no room for that.
    assert all(each.name == "tokens" for each in differing), differing
    assert not differing or "warning: " in warning, differing
    assert sum(each.is_equal is True for each in comparisons) >= 4
    return "warned" if "Transformers" in warning or "guessed" in warning else "equal"


@pytest.mark.parametrize("name", zoo.TOKENIZERS)
def test_kinds_of_tokenizers(tmp_path, name, capsys):
    write_tokenizer, expected = zoo.TOKENIZERS[name]
    write_tokenizer(tmp_path)
    number = list(zoo.TOKENIZERS).index(name)
    rng = zoo.np.random.default_rng(number)
    architecture = zoo.ARCHITECTURES[number % len(zoo.ARCHITECTURES)]
    zoo.model(tmp_path, zoo.config_of(rng, zoo.size_of(tmp_path)), rng, architecture=architecture)
    assert outcome(tmp_path, capsys) == expected


@pytest.mark.parametrize("is_stated", [True, False], ids=["class", "no-class"])
@pytest.mark.parametrize("end", ["ForSequenceClassification", "ForMaskedLM"])
@pytest.mark.parametrize("family", zoo.FAMILY_TOKENIZERS)
def test_families(tmp_path, family, end, is_stated, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    zoo.family_tokenizer(tmp_path, family, is_stated=is_stated)
    config = tiny_families.drawn(family, 1)
    config.vocab_size, config.max_position_embeddings = zoo.size_of(tmp_path), 60
    if family in ("roberta", "xlm-roberta", "camembert"):
        config.pad_token_id = 1
    tiny_families.randomized(tiny_families.head_class(family, end)(config), 1).save_pretrained(tmp_path)
    assert outcome(tmp_path, capsys) == "equal"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_checkpoints(tmp_path, seed, capsys):
    what = zoo.draw(tmp_path / "checkpoint", seed)
    print(what)
    assert outcome(tmp_path / "checkpoint", capsys) in ("equal", "warned", "refused")


def test_most_random_checkpoints_are_not_refused_for_their_tokenizer(tmp_path):
    """Guards the zoo: a check that refuses everything would pass."""
    from bertjax.pretrained.tokenizer import load_tokenizer

    def is_read(seed):
        zoo.draw(tmp_path / str(seed), seed)
        try:
            return load_tokenizer(tmp_path / str(seed)) is not None
        except UserError:
            return False

    assert sum(map(is_read, range(RANDOM))) >= RANDOM / 2
