"""Draws the pictures of docs/smart.md: which tokens the adversary perturbs, and the anchor's path.

    python -m benchmarks.pictures --plain=RUN --smart=RUN

Both are finished runs of the same classification task, without and with SMART; those in docs/smart.md are of
`configs/sst.py` and `configs/sst_smart.py`. The anchor's path is computed for the starter model over `NUM_STEPS` plain
updates on rated_sst. Three minutes on two cores.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.directions import BATCH_SIZE, LENGTH, load
from bertjax import smart
from bertjax.data.batching import train_batches
from bertjax.evaluation.explain import explain_lines
from bertjax.evaluation.predict_text import load_text_model
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

DOCS = Path(__file__).parents[1] / "docs"
SENTENCES = (
    "a warm , clever story whose dull ending hardly matters .",
    "not a bad film , but you have seen all of it before .",
)
RADIUS = 0.1
NUM_STEPS, SAMPLED = 160, 100_000


def tokens(runs: dict[str, str], path: Path) -> None:
    """Draws each sentence once per run, its tokens shaded by the size of the worst perturbation."""
    figure = Figure(figsize=(6.6, 4.0), facecolor="white")
    FigureCanvasAgg(figure)
    renderer = figure.canvas.get_renderer()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    models = {name: load_text_model(Path(folder), None, "final") for name, folder in runs.items()}
    explained = {name: explain_lines(run, SENTENCES, RADIUS) for name, run in models.items()}
    darkest = max(float(each.perturbation.max()) for lines in explained.values() for each in lines)
    top = 0.9
    for place in range(len(SENTENCES)):
        for name, lines in explained.items():
            each, names = lines[place], models[name].task.schema.label_names
            clean, perturbed = (f"{names[int(x.argmax())]} {x.max():.0%}" for x in (each.output, each.perturbed_output))
            head = f"{name}: {clean}, perturbed: {perturbed}, divergence {each.divergence:.2g}"
            axes.text(0.02, top, head, fontsize=9, color="#57606a")
            right = 0.02
            for token, relative_rms in zip(each.tokens, each.perturbation, strict=True):
                box = {
                    "facecolor": (0.84, 0.38, 0.13, 0.85 * float(relative_rms) / darkest),
                    "edgecolor": "none",
                    "pad": 2.5,
                }
                drawn = axes.text(right, top - 0.09, token, fontsize=11, bbox=box, family="monospace")
                right = axes.transData.inverted().transform(drawn.get_window_extent(renderer))[1, 0] + 0.008
            top -= 0.2
        top -= 0.06
    figure.savefig(path, dpi=130)


def path_of_anchor(path: Path) -> None:
    """Draws θ and the anchors of two decays in the plane in which θ changes most."""
    inputs, params = load()
    tx, plain = optimizer.adamw(optimizer.linear_schedule(1e-4, NUM_STEPS, 0.1), 0.01), smart.preset("none")
    step = jax.jit(
        partial(
            train_step,
            FinetuningSpec(model=inputs.model, tasks=inputs.tasks, tx=tx, settings=plain, num_steps=NUM_STEPS),
        ),
        donate_argnums=0,
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    chosen = jnp.asarray(np.random.default_rng(0).choice(size, SAMPLED, replace=False))
    read = jax.jit(lambda params: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])[chosen])
    state = init_state(params, tx, plain)
    train = inputs.data["rated_sst"].examples["train"]
    batches = train_batches(train, batch_size=BATCH_SIZE, bucket_boundaries=(24, LENGTH), seed=0, epochs=1)
    points = [np.asarray(read(state.params), np.float64)]
    for _, batch in zip(range(NUM_STEPS), batches, strict=False):
        state, _ = step(state, {"rated_sst": batch}, jax.random.key(1))
        points.append(np.asarray(read(state.params), np.float64))
    theta = np.stack(points)
    papers = smart.preset("bertjax", decay=(0.99, 0.999))
    settings = {"0.99, then 0.999": papers, "horizon 0.1": smart.preset("bertjax")}
    anchors = {}
    for name, chosen_settings in settings.items():
        decay = smart.anchor_decay(chosen_settings, NUM_STEPS)
        anchor = [theta[0]]
        for count, point in enumerate(theta[1:], 1):
            beta = float(smart.value_at(decay, jnp.asarray(count)))
            anchor.append(anchor[-1] + (1 - beta) * (point - anchor[-1]))
        anchors[name] = np.stack(anchor)
    start = theta[0]
    _, _, directions = np.linalg.svd(theta - start, full_matrices=False)
    paths = {"θ": theta} | {f"θ̃, β {name}" if name[0] == "0" else f"θ̃, {name}": x for name, x in anchors.items()}
    figure = Figure(figsize=(9.5, 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, x in paths.items():
        plane = (x - start) @ directions[:2].T
        left.plot(*plane.T, ".-", markersize=3, linewidth=1, label=name)
        if name != "θ":
            right.plot(np.linalg.norm(theta - x, axis=1), color=left.lines[-1].get_color(), label=name)
    left.set(xlabel="direction in which θ moves most", ylabel="and next", title="paths, one point an update")
    right.set(xlabel="update", ylabel="‖θ − θ̃‖ of 100,000 parameters", title="how far the anchor lags")
    left.legend(frameon=False)
    right.grid(alpha=0.3)
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Draws both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", required=True)
    parser.add_argument("--smart", required=True)
    options = parser.parse_args()
    tokens({"fine-tuned": options.plain, "with SMART": options.smart}, DOCS / "tokens.png")
    path_of_anchor(DOCS / "anchor.png")


if __name__ == "__main__":
    main()
