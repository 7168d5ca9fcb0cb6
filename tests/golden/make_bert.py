"""Makes bert.json, what PyTorch Transformers gives for a tiny BERT: `python tests/golden/make_bert.py`.

Needs the extra `oracle`. The weights follow from the tensors' names alone, so a test rebuilds them without PyTorch.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

CONFIG = {
    "model_type": "bert",
    "vocab_size": 24,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 0.01,  # large enough to be seen
    "pad_token_id": 0,
}
INPUTS = {
    "input_ids": [[2, 7, 8, 23, 3, 11, 19, 3], [2, 5, 3, 6, 3, 0, 0, 0]],
    "attention_mask": [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]],
    "token_type_ids": [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]],
}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights in [−0.5, 0.5), LayerNorm's scales in [0.5, 1.5): 16 bits of SHAKE-256(name) each, exact in float32."""
    digest = hashlib.shake_256(name.encode()).digest(2 * math.prod(shape))
    values = np.frombuffer(digest, "<u2").reshape(shape) / 2**16 - 0.5
    return (values + name.endswith("LayerNorm.weight")).astype(np.float32)


def fill(model) -> None:
    """Gives every tensor of a PyTorch model its recipe weights."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(tensor(name, tuple(parameter.shape))))


def main() -> None:
    import torch
    import transformers

    model = transformers.BertModel(transformers.BertConfig(**CONFIG, attn_implementation="eager")).eval()
    fill(model)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        outputs = model.double()(**{name: torch.tensor(rows) for name, rows in INPUTS.items()})
    golden = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "config": CONFIG,
        "shapes": shapes,
        "inputs": INPUTS,
        "hidden": outputs.last_hidden_state.numpy().round(7).tolist(),
        "pooled": outputs.pooler_output.numpy().round(7).tolist(),
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
    Path(__file__).with_name("bert.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
