"""Figures of one evaluation: the states of the classes, how the network classifies, and examples.

Nobody can tell ten colours apart. Every class therefore has its own panel, with the others in grey, or is a named
bar or row.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from qcnn_lightning.evaluation.entanglement import Entanglement
from qcnn_lightning.evaluation.layout import (
    aspect_of,
    bare,
    class_labels,
    class_panels,
    class_rows,
    is_chain,
    matrix_figure,
    subject,
    write_numbers,
)
from qcnn_lightning.evaluation.measure import Evaluation, Examples
from qcnn_lightning.figure_style import OKABE_ITO, save, styled
from qcnn_lightning.labels import ENTROPY, shortened

BLUE, VERMILION = OKABE_ITO[:2]
OTHERS = "0.8"
# Smaller Schmidt probabilities are round-off.
SMALLEST_PROBABILITY = 1e-14
PIXEL_ENTROPY_RANGE = 1000
# Inches; and characters.
EXAMPLE_WIDTH, EXAMPLE_HEIGHT, EXAMPLE_NAME = 0.68, 0.86, 13


def figure_files(formats: Sequence[str]) -> list[str]:
    """Return the names of the files that `draw_all` writes."""
    return [f"{name}.{suffix}" for name in FIGURES for suffix in formats]


def draw_all(evaluation: Evaluation, folder: Path, formats: Sequence[str]) -> None:
    """Draw every figure that the model has numbers for into a folder, in every format."""
    with styled():
        for name, draw in FIGURES.items():
            if not missing(name, evaluation):
                save(draw(evaluation), folder / name, formats)


def missing(name: str, evaluation: Evaluation) -> bool:
    """Return whether the model lacks what a figure shows: states, or block entropies."""
    if evaluation.entanglement is None:
        return name not in ("confusion", "examples")
    if name == "interaction_order":
        return evaluation.entanglement.interaction_order is None
    return name in ("entropy_profile", "pixel_entropies") and not evaluation.entanglement.block_entropies


def states_of(evaluation: Evaluation) -> Entanglement:
    """Return the numbers of the states, for figures of models with states."""
    assert evaluation.entanglement is not None
    return evaluation.entanglement


def draw_entropies(evaluation: Evaluation) -> Figure:
    """Draw every class's entropy, in descending order, and its error rate beside it."""
    entanglement = states_of(evaluation)
    order = entanglement.entropy.argsort(descending=True, stable=True).numpy()
    error = 1 - evaluation.classification.class_accuracies.numpy()[order]
    figure, (left, right) = class_rows([class_labels(evaluation)[label] for label in order], columns=2)
    place = np.arange(len(order))
    left.barh(place, entanglement.entropy.numpy()[order], color=BLUE, height=0.65, label="von Neumann")
    left.plot(
        entanglement.renyi_2.numpy()[order], place, "d", color="black", markersize=3.5, label="Rényi-2", linestyle=""
    )
    left.set_xlabel(ENTROPY)
    left.legend(loc="lower right")
    right.barh(place, error, color=VERMILION, height=0.65)
    right.set_xlim(left=0)
    right.set_xlabel(f"error rate, {evaluation.split} images")
    right.xaxis.set_major_formatter(lambda part, _: f"{100 * part:.3g}%")
    spearman, p_value = evaluation.entropy_and_error
    found = f": Spearman's ρ = {spearman:.2f}, p = {p_value:.2g}".replace("-", "−") if np.isfinite(spearman) else ""
    figure.suptitle(f"Entropy of the image's halves, and error rate, of every class{found}\n{subject(evaluation)}")
    return figure


def draw_schmidt_spectra(evaluation: Evaluation) -> Figure:
    """Draw the Schmidt spectrum of every class."""
    entanglement = states_of(evaluation)
    spectra = entanglement.schmidt_spectrum.numpy()
    shown = np.where(spectra > SMALLEST_PROBABILITY, spectra, np.nan)
    rank = np.arange(1, spectra.shape[1] + 1)
    figure, panels = class_panels(len(spectra), height=1.75, sharex=True, sharey=True)
    for label, axes in enumerate(panels):
        axes.plot(rank, shown.T, color=OTHERS, linewidth=0.6)
        axes.plot(rank, shown[label], color=BLUE, linewidth=1.4)
        axes.set_title(class_labels(evaluation)[label], loc="left")
        axes.text(
            0.96,
            0.94,
            f"S = {entanglement.entropy[label]:#.3g} nats\nexp S = {entanglement.effective_schmidt_rank[label]:.3f}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=7.5,
        )
    against_whole_numbers(panels[0])
    figure.supxlabel("place k in the spectrum", fontsize=9)
    figure.supylabel("Schmidt probability", fontsize=9)
    figure.suptitle(f"Schmidt spectrum, half against half of the image\n{subject(evaluation)}")
    return figure


def against_whole_numbers(axes: Axes) -> None:
    """Let panels that share their axes have a logarithmic y-axis and few whole numbers on the x-axis."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def draw_entropy_profile(evaluation: Evaluation) -> Figure:
    """Draw, for every class, the entropy of blocks of 1, 2, 4, ... sites against the rest."""
    entanglement = states_of(evaluation)
    sizes, profile = entanglement.block_sizes, entanglement.profile.numpy()
    figure, panels = class_panels(len(profile), height=1.75, sharex=True, sharey=True)
    for label, axes in enumerate(panels):
        axes.plot(sizes, profile.T, color=OTHERS, linewidth=0.6)
        if not entanglement.sites_are_alike:
            entropies = [blocks[label].numpy() for blocks in entanglement.block_entropies]
            low, high = ([reduce(blocks) for blocks in entropies] for reduce in (np.min, np.max))
            axes.fill_between(sizes, low, high, color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(sizes, profile[label], color=BLUE, marker="o", markersize=3)
        axes.set_title(class_labels(evaluation)[label], loc="left")
    panels[0].set_xscale("log", base=2)
    panels[0].set_xticks(sizes[:: max(1, len(sizes) // 4)])
    panels[0].xaxis.set_major_formatter(lambda size, _: f"{size:g}")
    panels[0].set_ylim(bottom=0)
    figure.supxlabel("sites in the block", fontsize=9)
    figure.supylabel(ENTROPY, fontsize=9)
    what = "all blocks of a size alike" if entanglement.sites_are_alike else "mean, and range over the blocks"
    figure.suptitle(f"Entropy of a block against the rest ({what})\n{subject(evaluation)}")
    return figure


def draw_interaction_order(evaluation: Evaluation) -> Figure:
    """Draw, for every class, the weight of the terms that involve exactly k pixels."""
    weights = states_of(evaluation).interaction_order.numpy()  # type: ignore[union-attr]
    last = int(np.nonzero(weights > SMALLEST_PROBABILITY)[1].max(initial=1))
    shown = np.where(weights > SMALLEST_PROBABILITY, weights, np.nan)[:, : last + 1]
    figure, panels = class_panels(len(weights), height=1.75, sharex=True, sharey=True)
    for label, axes in enumerate(panels):
        axes.plot(shown.T, color=OTHERS, linewidth=0.6)
        axes.plot(shown[label], color=BLUE, linewidth=1.4)
        mean = weights[label] @ np.arange(weights.shape[1])
        axes.set_title(f"{evaluation.class_names[label]}: {mean:#.3g}", loc="left")
    against_whole_numbers(panels[0])
    figure.supxlabel("pixels k in a term; in the titles their mean", fontsize=9)
    figure.supylabel("weight of all terms of k pixels", fontsize=9)
    figure.suptitle(f"Order of interaction: pixels that terms of a state involve\n{subject(evaluation)}")
    return figure


def draw_pixel_entropies(evaluation: Evaluation) -> Figure:
    """Draw the entropy of every pixel with all others as an image, for every class.

    If all pixels are alike, as with full weight sharing, a map would show nothing; bars do.
    """
    if states_of(evaluation).sites_are_alike:
        return draw_entropy_of_any_pixel(evaluation)
    maps = evaluation.pixel_entropies.numpy()  # type: ignore[union-attr]
    figure, panels = class_panels(len(maps), height=1.8)
    largest = max(np.nanmax(maps), SMALLEST_PROBABILITY)
    smallest = largest / PIXEL_ENTROPY_RANGE
    # Logarithmic: classes differ by orders of magnitude.
    scale = LogNorm(smallest, largest, clip=True)
    for label, axes in enumerate(panels):
        image = axes.imshow(maps[label], cmap="viridis", norm=scale, aspect=aspect_of(maps[label]))
        mean_image = evaluation.mean_images[label].numpy()
        if np.ptp(mean_image) > 0 and not is_chain(mean_image):
            outline = axes.contour(mean_image, levels=[mean_image.max() / 2], colors="white", linewidths=0.9)
            outline.set(path_effects=[withStroke(linewidth=1.7, foreground="0.25")])
        bare(axes)
        axes.set_title(class_labels(evaluation)[label], loc="left")
    figure.colorbar(
        image,
        ax=panels,
        label=ENTROPY,
        shrink=0.8,
        aspect=30,
        extend="min" if np.nanmin(maps) < smallest else "neither",
    )
    if not is_chain(maps[0]):
        figure.supxlabel("white: where the mean image of the class has half its largest grey level", fontsize=8)
    figure.suptitle(f"Entropy of every pixel with all others\n{subject(evaluation)}")
    return figure


def draw_entropy_of_any_pixel(evaluation: Evaluation) -> Figure:
    """Draw the common entropy of all pixels, for every class."""
    figure, (axes,) = class_rows(class_labels(evaluation), columns=1)
    entropy = states_of(evaluation).profile[:, 0].numpy()
    axes.barh(range(len(entropy)), entropy, color=BLUE, height=0.65)
    axes.set_xlabel("entanglement entropy of one pixel with all others (nats)")
    figure.suptitle(f"No map: sites share weights, so all pixels of a class have one entropy\n{subject(evaluation)}")
    return figure


def draw_overlaps(evaluation: Evaluation) -> Figure:
    """Draw the overlaps of the classes' normalised states."""
    overlaps = states_of(evaluation).overlaps.numpy().copy()
    diagonal = np.eye(len(overlaps), dtype=bool)
    largest = max(np.nanmax(np.abs(overlaps[~diagonal]), initial=0), SMALLEST_PROBABILITY)
    figure, axes = matrix_figure(evaluation)
    colours = mpl.colormaps["PuOr"].with_extremes(bad="0.88")
    image = axes.imshow(np.where(diagonal, np.nan, overlaps), cmap=colours, vmin=-largest, vmax=largest)
    write_numbers(
        axes,
        overlaps,
        lambda value: f"{value:.2f}".replace("-", "−"),
        dark=np.abs(overlaps) > 0.55 * largest,
        skip=diagonal,
    )
    axes.set(xlabel="class", ylabel="class")
    figure.colorbar(image, ax=axes, label="overlap of the states", shrink=0.85)
    axes.set_title(f"Overlaps of the normalised states (each with itself: 1)\n{subject(evaluation)}")
    return figure


def draw_confusion(evaluation: Evaluation) -> Figure:
    """Draw how many images of every class were taken for each class."""
    confusion = evaluation.classification.confusion.numpy()
    fraction = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure, axes = matrix_figure(evaluation)
    # A root scale shows errors of one in a hundred beside the diagonal.
    image = axes.imshow(fraction, cmap="Blues", norm=PowerNorm(0.4, 0, 1))
    write_numbers(axes, confusion, str, dark=fraction > 0.25, skip=confusion == 0)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class of the image")
    bar = figure.colorbar(image, ax=axes, label="part of the class's images", shrink=0.85)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(
        f"Accuracy {evaluation.classification.accuracy:.2%} on {confusion.sum()} {evaluation.split} images\n"
        f"{subject(evaluation)}"
    )
    return figure


def draw_examples(evaluation: Evaluation) -> Figure:
    """Draw, for every class, its own images with the highest and those with the lowest p(y|x) (eq. 34)."""
    names, columns = class_labels(evaluation), evaluation.most_probable.index.shape[1]
    # Inches. Laid out by hand, in one panel: a panel for every image would take a second to draw.
    margin, half = 0.25 + 0.07 * max(map(len, names)), columns * EXAMPLE_WIDTH + 0.2
    width, height = margin + 2 * half, 0.75 + EXAMPLE_HEIGHT * len(names)
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    title = f"{evaluation.split.capitalize()} images of every class y: {subject(evaluation)}"
    axes.text(width / 2, 0.2, title, ha="center", va="center", fontsize=mpl.rcParams["figure.titlesize"])
    for start, heading, examples, shown in (
        (margin, "Highest p(y|x); below: 1 − p", evaluation.most_probable, lambda p: 1 - p),
        (margin + half, "Lowest p(y|x); below: p, and what it was taken for", evaluation.least_probable, lambda p: p),
    ):
        axes.text(start, 0.5, heading, va="bottom", fontsize=mpl.rcParams["axes.titlesize"])
        for label in range(len(names)):
            draw_row(axes, names, examples, label, (start, 0.58 + EXAMPLE_HEIGHT * label), shown)
    for label, name in enumerate(names):
        axes.text(margin - 0.1, 0.58 + EXAMPLE_HEIGHT * label + 0.3, name, ha="right", va="center", fontsize=8)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def draw_row(
    axes: Axes,
    names: Sequence[str],
    examples: Examples,
    label: int,
    corner: tuple[float, float],
    shown: Callable[[float], float],
) -> None:
    """Draw the examples of one class; below each a number made of p, and the class if it is wrong.

    Args:
        axes: in inches, from the upper left.
        names: of the classes.
        examples: of all classes.
        label: of the class.
        corner: the upper left one of the row.
        shown: from p to the number.
    """
    for place in range(examples.index.shape[1]):
        if examples.index[label, place] < 0:
            continue
        image = examples.images[label, place].numpy()
        white = 255 if image.dtype == np.uint8 else 1
        left, top, side = corner[0] + EXAMPLE_WIDTH * place, corner[1], EXAMPLE_WIDTH - 0.08
        # Pixels are square, but those of a chain are stretched: it would be a hairline.
        high, wide = (1, 1) if is_chain(image) else np.array(image.shape) / max(image.shape)
        axes.imshow(
            image,
            cmap="gray",
            vmin=0,
            vmax=white,
            extent=(left, left + wide * side, top + high * side, top),
            aspect="auto",
        )
        taken_for = int(examples.taken_for[label, place])
        wrong = "" if taken_for == label else shortened(names[taken_for], EXAMPLE_NAME)
        told = f"{short(shown(float(examples.probability[label, place])))}\n{wrong}"
        axes.text(left + side / 2, top + side + 0.03, told, ha="center", va="top", fontsize=6)


def short(number: float) -> str:
    """Return a number with two digits: 0.29, 8.4e-5."""
    return f"{number:.2g}" if number == 0 or number >= 0.01 else f"{number:.1e}".replace("e-0", "e-")


FIGURES: dict[str, Callable[[Evaluation], Figure]] = {
    "entropies": draw_entropies,
    "schmidt_spectra": draw_schmidt_spectra,
    "entropy_profile": draw_entropy_profile,
    "pixel_entropies": draw_pixel_entropies,
    "interaction_order": draw_interaction_order,
    "overlaps": draw_overlaps,
    "confusion": draw_confusion,
    "examples": draw_examples,
}
