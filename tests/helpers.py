"""What several tests share: a tiny model, generated data, a check of HTML."""

import importlib.util
import random
from html.parser import HTMLParser
from pathlib import Path

from bertjax.models.config import BertConfig

ROOT = Path(__file__).parents[1]
WORDS = {
    0: "awful dreadful hated",
    1: "weak dull tired",
    2: "plain usual average",
    3: "good warm clever",
    4: "superb glorious loved",
}
FILLER = ["the", "film", "a", "story", "and", "its", "actors", "with", "this", "director", "of", "scenes"]
TINY = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    initializer_range=0.2,  # at BERT's own, so small a model hardly sees its input
)


def write_sst(folder):
    """A few dozen generated sentences whose label one word gives away, as gold SST's files."""
    rng = random.Random(0)
    for split, rows in (("train", 61), ("dev", 23)):
        lines = ["\tid\tsentence\tsentiment"]
        for i in range(rows):
            words = rng.choices(FILLER, k=rng.randint(1, 14))
            words.insert(rng.randint(0, len(words)), rng.choice(WORDS[i % 5].split()))
            lines.append(f"{i}\t{split}{i}\t{' '.join(words)}\t{i % 5}")
        (folder / f"ids-sst-{split}.csv").write_text("\n".join(lines) + "\n")


def write_sts(folder):
    """sts' files: 16 pairs of train, 9 of dev, 9 of test."""
    rng = random.Random(1)
    for split, rows in (("train", 16), ("dev", 9), ("test", 9)):
        lines = ["\tid\tsentence1\tsentence2\tsimilarity"]
        for i in range(rows):
            texts = [" ".join(rng.choices(FILLER, k=rng.randint(1, 9))) for _ in range(2)]
            lines.append(f"{i}\tpair{i}\t{texts[0]}\t{texts[1]}\t{i % 6}.0")
        (folder / f"sts-{split}.csv").write_text("\n".join(lines) + "\n")


def recipe(name, variant=None):
    """The config of a recipe in configs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config() if variant is None else module.get_config(variant)


class Seen(Exception):
    """Of `seen`: the step is about to be traced."""


class Page(HTMLParser):
    """Counts tags, and sees that they close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.counts, self.ids = [], {}, []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id"]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
