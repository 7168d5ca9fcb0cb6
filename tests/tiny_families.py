"""Small random models of Transformers' families, and batches for them."""

import numpy as np

from bertjax.models.families import FAMILIES

ACTIVATIONS = ("gelu", "gelu_new", "relu")
TYPED = ("input_ids", "attention_mask", "token_type_ids")
UNTYPED = TYPED[:2]
ARGUMENTS = {name: UNTYPED if name in ("distilbert", "mpnet", "modernbert") else TYPED for name in FAMILIES}


def drawn(name, seed):
    """The config of a random small model."""
    import transformers

    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    values = {
        "vocab_size": int(rng.integers(24, 60)),
        "hidden_size": heads * int(rng.integers(2, 7)),
        "num_attention_heads": heads,
        "num_hidden_layers": int(rng.integers(1, 4)),
        "max_position_embeddings": int(rng.integers(12, 40)),
        "num_labels": int(rng.integers(1, 5)),
    }
    if name == "modernbert":
        return transformers.AutoConfig.for_model(name, **values | drawn_modernbert(rng, seed, values))
    size, act, eps = int(rng.integers(5, 40)), ACTIVATIONS[seed % 3], float(rng.choice([1e-12, 1e-5, 0.1]))
    if name == "distilbert":
        values |= {"hidden_dim": size, "activation": act}
    else:
        values |= {"intermediate_size": size, "hidden_act": act, "layer_norm_eps": eps}
    if ARGUMENTS[name] == TYPED:
        values["type_vocab_size"] = 1 + seed % 2
    if name in ("roberta", "xlm-roberta", "camembert"):
        values["pad_token_id"] = (1, 0, 3)[seed % 3]
    if name == "electra":
        values["embedding_size"] = values["hidden_size"] if seed % 4 == 3 else int(rng.integers(4, 20))
    return transformers.AutoConfig.for_model(name, **values)


def drawn_modernbert(rng, seed, values):
    """What ModernBERT states besides; 12 seeds cover every switch, see `test_modernbert_config`."""
    flags = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias")
    layers = 1 + seed % 5
    own = {
        "hidden_size": values["num_attention_heads"] * 2 * int(rng.integers(1, 5)),
        "num_hidden_layers": layers,
        "intermediate_size": int(rng.integers(5, 40)),
        "hidden_activation": ACTIVATIONS[seed % 3],
        "classifier_activation": ACTIVATIONS[(seed + 1) % 3],
        "norm_eps": float(rng.choice([1e-12, 1e-5, 0.1])),
        "pad_token_id": 3,
        "local_attention": int(rng.integers(2, 12)),
        "classifier_pooling": ("cls", "mean")[seed % 2],
        "global_rope_theta": float(rng.choice([160_000.0, 50.0])),
        "local_rope_theta": float(rng.choice([10_000.0, 20.0])),
        **{name: bool(rng.integers(2)) for name in flags},
        **{f"{name}_token_id": 1 for name in ("bos", "eos", "cls", "sep")},
    }
    if seed % 4 == 3:  # a pattern without a period
        types = rng.choice(["sliding_attention", "full_attention"], size=layers - 1)
        return own | {"layer_types": ["sliding_attention", *types.tolist()]}
    return own | {"global_attn_every_n_layers": int(rng.integers(1, 5))}


def head_class(name, end):
    import transformers

    return getattr(transformers, f"{FAMILIES[name].class_name}{end}")


def randomized(model, seed):
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    model.tie_weights()
    return model.eval()


def batch(config, seed):
    """Four rows: full length, two padded, one with padding's id in the middle."""
    rng = np.random.default_rng(seed)
    length = config.max_length
    ids = rng.integers(4, config.vocab_size, size=(4, length))
    mask = np.ones_like(ids)
    for row in (1, 2):
        n = int(rng.integers(1, length))
        ids[row, n:], mask[row, n:] = config.pad_token_id, 0
    ids[3, length // 2] = config.pad_token_id
    types = np.cumsum(rng.random(ids.shape) < 0.1, axis=1).clip(0, max(config.type_vocab_size - 1, 0))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
