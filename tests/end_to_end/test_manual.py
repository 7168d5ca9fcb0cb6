"""Checks README.md, the manual and the doctests of bertjax.smart; `python -m tools.manual` runs the commands."""

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from ml_collections import config_flags

from bertjax.config import PretrainConfig, RunConfig, is_pretraining, read_config
from bertjax.study.plan import plan_trials
from tools.manual import ROOT, blocks, pages

LIBRARY = ROOT / "docs" / "library.md"
COMMAND = re.compile(r"^python (train\.py|-m bertjax\.data|-m bertjax\.study) .*?$", re.MULTILINE)


def commands():
    for page in pages():
        for block in blocks(page):
            if block.language == "bash":
                code = block.code.replace("\\\n", " ")
                yield from (pytest.param(found[0], id=found[0]) for found in COMMAND.finditer(code))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_code_is_run_or_says_why_not(page):
    for block in blocks(page):
        assert block.language in ("bash", "python", "text"), block.code
        assert block.why is None or len(block.why) > 10
    assert len(re.findall(r"^\s*(?:>\s*)?```", page.read_text(), re.MULTILINE)) == 2 * len(blocks(page))


def test_every_page_is_in_the_table_of_contents():
    assert {*pages()} == {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections'
@pytest.mark.parametrize("command", list(commands()))
def test_recipes_take_the_keys_that_commands_set(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    for name in ("workdir", "out"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    for name in ("distributed", "report_only"):
        flags.DEFINE_bool(name, False, "", flag_values=values)
    program, *arguments = shlex.split(command.split("  #")[0])[1:]
    argv = [program, *(x for x in arguments if not x.startswith("bertjax."))]
    monkeypatch.setattr("sys.argv", argv)  # ml_collections looks for overrides here
    rest = values(argv)
    assert len(rest) == 1, rest
    config = values["config"].value
    if "bertjax.study" in arguments:
        assert plan_trials(config.to_dict())
    else:
        assert read_config(config, PretrainConfig if is_pretraining(config) else RunConfig)


def test_troubleshooting_lists_every_message_by_module():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((ROOT / "docs" / "troubleshooting.md").read_text(), page=None)
    headings = re.findall(r"^\*\*.+\*\* \(`([\w.]+)`\)$", page, re.MULTILINE)
    assert headings == sorted({*headings})
    assert all(importlib.util.find_spec(name) for name in headings)
    for message in (
        r"--config\.train_share: .*\(0, 1\].*\{self\.train_share\}.*",
        r"--workdir: \{workdir\} .*\bconfig\b.*",
        r"expected \{len\(layout\.columns\)\} .*columns.*\{len\(fields\)\}.*",
        r"\{name\} must be a number in \[0, \{\w+\}\], found \{value\}",
    ):
        assert re.search(f"^- `` {message} ``$", page, re.MULTILINE), message
    words = " ".join(page.split())
    for path in (ROOT / "bertjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError" and node.args:
                texts = [x.value for x in ast.walk(node.args[0]) if isinstance(getattr(x, "value", None), str)]
                longest = max(texts, key=len, default="")
                assert " ".join(longest.split()) in words, f"{path.name}:{node.lineno}: {longest}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda page: page.stem)
def test_the_reference_names_what_exists(page):
    names = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    assert names
    for name in names:
        pkgutil.resolve_name(name)


def python_blocks(page):
    return [block.code for block in blocks(page) if block.language == "python"]


def lenient(make):
    """Allows type promotion inside an optax optimizer, whose own arithmetic needs it; all other code stays strict."""

    def made(*args):
        tx = make(*args)

        def update(*args):
            with jax.numpy_dtype_promotion("standard"):
                return tx.update(*args)

        return optax.GradientTransformation(tx.init, update)

    return made


def test_smart_in_your_own_loop_runs_as_printed(monkeypatch):
    monkeypatch.setattr(optax, "adamw", lenient(optax.adamw))
    page = {"__name__": "library"}
    blocks = iter(enumerate(python_blocks(LIBRARY)))

    def run(name):
        """Runs the page up to the block that defines a name, and returns its value."""
        while name not in page:
            number, code = next(blocks)
            exec(compile(code, f"library.md, block {number}", "exec"), page)
        return page[name]

    assert run("loss_fn")
    batch, params = run("batch"), page["params"]
    key = jax.random.key(1)
    elsewhere = jax.tree.map(lambda x: 1.1 * x, params)
    plain = jnp.mean(page["cross_entropy"](page["logits"](params, page["embed"](params, batch), batch, key), batch))
    at_start, later = (page["loss_fn"](params, anchor, batch, key) for anchor in (params, elsewhere))
    assert plain < at_start < later

    first, *_, last = run("fused_log")
    assert last["loss"] < 0.7 * first["loss"]
    assert all(np.isfinite(value) for value in last.values())
    assert first["bregman"] == pytest.approx(0, abs=1e-12)
    assert all(last[name] > 0 for name in ("smoothness", "bregman"))
    fused, _, anchor = page["state"]
    assert not np.allclose(anchor["head"], fused["head"])

    assert all(value > 0 for value in run("last").values())
    losses = np.array(page["losses"])
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    anchor, trained = page["anchor"], page["trained"]
    assert jax.tree.structure(anchor) == jax.tree.structure(trained)
    for name, value in anchor.items():
        assert np.isfinite(value).all()
        assert not np.allclose(value, trained[name])

    r_s = np.array(run("r_s"))
    assert r_s.shape == (32,)
    assert np.count_nonzero(r_s) == 8

    delta, embeddings, mask = (np.asarray(x) for x in (run("delta"), page["x"], batch["mask"]))
    assert not delta[~mask].any()
    for one, embedding, real in zip(delta, embeddings, mask, strict=True):  # "radius" is a share of the RMS
        assert np.linalg.norm(one) == pytest.approx(0.02 * np.linalg.norm(embedding[real]), rel=1e-5)

    assert (run("r_s_of_tags") > 0).all()
    assert not [*blocks]


def test_the_page_lists_the_presets():
    presets = importlib.import_module("bertjax.smart").PRESETS
    rows = LIBRARY.read_text().split("| preset | what it is |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE) == list(presets)


@pytest.mark.parametrize("name", ["divergences", "one_example", "presets", "proximal", "smoothness_term", "transforms"])
def test_doctests(name):
    module = importlib.import_module(f"bertjax.smart.{name}")
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes types
        found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted > 0
