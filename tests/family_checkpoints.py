"""A small random checkpoint of any family, with its tokenizer, written without Transformers; and a corpus for it."""

import random

import numpy as np
import safetensors.numpy
import zoo
from helpers import TINY

from bertjax.models.families import FAMILIES
from bertjax.pretrained import tensor_shapes
from bertjax.pretrained.tokenizer import read_tokenizer

SENTENCES = ["the film was superb", "a dull movie", "the dull film was a movie", "un film", "superb, superb", "a 3"]


def write_checkpoint(folder, name):
    """An encoder without heads; a table of 42 positions."""
    folder.mkdir()
    if name == "bert":
        zoo.bert_files(folder, "4")
    else:
        zoo.family_tokenizer(folder, name, is_stated=True)
    sizes = {field: getattr(TINY, field) for field in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = FAMILIES[name].config(
        **sizes,
        vocab_size=zoo.size_of(folder),
        intermediate_size=32,
        max_position_embeddings=42,
        initializer_range=0.2,
        pad_token_id=read_tokenizer(folder).special_ids["pad_token"],
    )
    rng = np.random.default_rng(0)
    tensors = {
        tensor: (1 + rng.normal(size=shape) * 0.2 if len(shape) == 1 else rng.normal(size=shape) * 0.2)
        for tensor, shape in tensor_shapes(config).items()
    }
    floats = {tensor: np.float32(array) for tensor, array in tensors.items()}
    safetensors.numpy.save_file(floats, folder / "model.safetensors", metadata={"format": "pt"})
    zoo.write(folder, "config.json", config.to_dict())
    return folder


def write_corpus(folder):
    """Eighty documents of two to five short sentences."""
    folder.mkdir()
    rng = random.Random(0)
    documents = ["\n".join(f"{rng.choice(SENTENCES)} {i}" for _ in range(rng.randint(2, 5))) for i in range(80)]
    zoo.write(folder, "a.txt", "\n\n".join(documents))
    return folder
