"""The study: does further pre-training help, does SMART, and what do they cost?

    python -m bertjax.study --config=configs/study.py --config.data_dir=FOLDER

Data: CS224N's files of SST-5, CFIMDB, STS and Quora. For Quora, quora-train.csv was 14,000 and quora-dev.csv 3,000
pairs of the course's dev file. The course's own training file is far larger: a tenth of it is more data and takes
longer. The study takes about nine hours on two CPU cores; the same command resumes it.

How the settings were chosen:

- Learning rate and epochs: for plain fine-tuning on 5% and 1% of SST-5, on a validation part of train (docs/scale.md).
- "wide": radius 0.1 was best for R_s on the same validation part.
- The cheap mode as preset `bertjax`: on SST-5's dev set (docs/scale.md).
- Nothing was chosen on STS or Quora.
- "old anchor": the decay that the presets had before they got a horizon (docs/study/corrections.md).
- Further pre-training for SST-5 uses the reviews of CFIMDB, as SST-5 has only single sentences; that for STS and Quora
  uses their own pairs.
"""

from ml_collections import ConfigDict, config_dict

OLD = {"decay": (0.99, 0.999)}
NOTES = (
    "This first study is small and exploratory, and parts of its first edition were wrong: see [what we got wrong]"
    "(corrections.md). Learning rate and epochs were tuned for plain fine-tuning on SST-5 alone. On STS, the methods "
    "R_s, D and fine-tune longer were added after looking at dev. There, only fine-tune, D and smart have been run "
    "again with standardised scores; the other methods, and all runs on several tasks, have not.",
    "The checkpoint, minilm-l6 (all-MiniLM-L6-v2), is a sentence encoder trained on a billion pairs, among them Quora "
    "duplicates, SNLI and MultiNLI. STS and Quora therefore say little about methods of fine-tuning it: below their "
    "tables is what it scores before any fine-tuning.",
    "Methods: fine-tune is plain fine-tuning. smart is SMART with the preset bertjax; R_s and D are its two terms "
    "alone. 'wide' sets a radius of 0.1, 'exact' the preset bertjax_exact, 'old anchor' the anchor decay of the first "
    "edition. paper, mtdnn_2020, mtdnn_head, sift, r3f and rdrop are presets of published methods. 'further' starts "
    "from further pre-training. last layer trains the head alone.",
)


def get_config():
    config = ConfigDict()
    config.data_dir = config_dict.placeholder(str)
    config.notes = NOTES
    # Dev is evaluated once, after the last update, not after each epoch.
    config.base = {"epochs": 6, "eval_every": 10**6, "checkpoint_every": 50, "on_bad_row": "skip"}
    config.by_task = {"cfimdb": {"epochs": 3, "batch_size": 16, "max_length": 256}}
    config.methods = {
        "fine-tune": {},
        "fine-tune longer": {"epochs": 11},  # takes about as long as SMART
        "smart": {"smart": {"preset": "bertjax"}},
        "smart old anchor": {"smart": {"preset": "bertjax", **OLD}},
        "smart wide": {"smart": {"preset": "bertjax", "radius": 0.1, "horizon": 0.1}},
        "smart exact old anchor": {"smart": {"preset": "bertjax_exact", **OLD}},
        "R_s": {"smart": {"preset": "bertjax", "bregman_weight": 0.0}},
        "R_s wide": {"smart": {"preset": "bertjax", "radius": 0.1, "bregman_weight": 0.0}},
        "D": {"smart": {"preset": "bertjax", "weight": 0.0}},
        "D old anchor": {"smart": {"preset": "bertjax", "weight": 0.0, **OLD}},
        "further": {"init_from": "further"},
        "further smart": {"init_from": "further", "smart": {"preset": "bertjax"}},
        "further smart old anchor": {"init_from": "further", "smart": {"preset": "bertjax", **OLD}},
        "last layer": {"tune": "head", "learning_rate": 1e-3, "epochs": 20},
        **{name: {"smart": {"preset": name}} for name in ("paper", "mtdnn_2020", "mtdnn_head", "sift", "r3f", "rdrop")},
    }
    config.domains = {"sst5": "cfimdb", "sts": "sts", "quora": "quora"}
    config.pretraining = {"epochs": 3, "learning_rate": 2e-4, "head_epochs": 1, "head_learning_rate": 2e-3}
    tenth, fewer = {"shares": (0.1,), "seeds": 5}, {"learning_rate": 2e-4, "epochs": 10}
    plain_and_old = ("fine-tune", "smart old anchor")
    sst5_alone = (
        "smart wide",
        "R_s",
        "R_s wide",
        "D old anchor",
        "smart exact old anchor",
        "paper",
        "mtdnn_head",
        "r3f",
        "rdrop",
        "fine-tune longer",
    )
    further_old = ("further", "further smart old anchor")
    together = {"tasks": ("sst5+quora+sts",), "shares": (0.1,), "methods": ("fine-tune", "smart"), "seeds": 3}
    config.blocks = {
        "1 sts": {
            "tasks": ("sts",),
            "methods": ("fine-tune", "fine-tune longer", "R_s", "D", "smart", "further", "further smart"),
            **tenth,
        },
        "2 sts small": {
            "tasks": ("sts",),
            "shares": (0.01,),
            "methods": ("fine-tune", "smart"),
            "seeds": 5,
            "changes": fewer,
        },
        "3 sst5 and quora": {"tasks": ("sst5", "quora"), "methods": (*plain_and_old, *further_old), **tenth},
        "4 sst5": {"tasks": ("sst5",), "methods": sst5_alone, **tenth},
        "4 sst5 more seeds": {"tasks": ("sst5",), "shares": (0.1,), "methods": plain_and_old, "seeds": 10},
        "4 sst5 presets": {"tasks": ("sst5",), "shares": (0.1,), "methods": ("mtdnn_2020", "sift"), "seeds": 3},
        "4 sst5 small": {
            "tasks": ("sst5",),
            "shares": (0.01,),
            "methods": plain_and_old,
            "seeds": 5,
            "changes": fewer,
        },
        "4 sst5 whole": {"tasks": ("sst5",), "shares": (1.0,), "methods": plain_and_old, "seeds": 1},
        "5 together": together,
        "6 last": {
            "tasks": ("sst5", "sts", "quora", "cfimdb"),
            "shares": (1.0,),
            "methods": ("last layer",),
            "seeds": 3,
        },
        "7 sst5 anchor": {"tasks": ("sst5",), "methods": ("D", "smart"), **tenth},
    }
    return config
