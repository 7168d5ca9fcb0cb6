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
    if name == "deberta-v2":
        values |= deberta_switches(seed, rng, values["hidden_size"], heads)
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


def deberta_switches(seed, rng, hidden_size, heads):
    """Switches of DeBERTa; 12 seeds draw every value of each."""
    groups = [n for n in (1, 2, 3, heads) if hidden_size % n == 0]
    values = {
        "type_vocab_size": seed % 3,
        "relative_attention": seed % 6 != 5,
        "pos_att_type": (["c2p", "p2c"], "p2c|c2p", "c2p", ["p2c"], None, ["c2p"], ["p2c", "c2p"])[seed % 7],
        "position_buckets": (4, -1, 6, 8)[seed % 4],
        "max_relative_positions": (-1, 7, 9)[seed % 3],
        "share_att_key": seed % 2 == 0,
        "norm_rel_ebd": ("layer_norm", "none", "layer_norm")[seed % 3],
        "position_biased_input": seed % 4 < 2,
        "conv_kernel_size": (0, 0, 5, 3, 1)[seed % 5],
        "conv_groups": groups[seed % len(groups)],
        "conv_act": ("gelu", "tanh")[seed % 2],
        "pooler_hidden_act": ("gelu", "tanh", "relu")[seed % 3],
        "pooler_dropout": 0.2,
        "cls_dropout": (None, 0.3)[seed % 2],
        "legacy": seed % 3 != 2,
    }
    if seed % 4 == 3:  # the other head needs embeddings of the hidden size
        values |= {"embedding_size": int(rng.integers(4, 20)), "legacy": True}
    return values


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
