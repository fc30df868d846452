"""Every number of an evaluation: how a trained network classifies, and how entangled it is.

The model gives cost and accuracy; its states give p(y|x) (eq. 34) and the entanglement (eq. 36-45), in float64.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Real
from scipy.stats import permutation_test, rankdata, spearmanr
from torch import Tensor, nn

from qcnn_lightning.costs import Cost, most_probable, scores_for
from qcnn_lightning.data.flattening import lay_on_image
from qcnn_lightning.data.split_images import SplitImages
from qcnn_lightning.evaluation.entanglement import Entanglement, measure_entanglement
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.states import State

BATCH_SIZE = 1000
EXAMPLES = 6
FEWEST_CLASSES = 3
MOST_PERMUTED = 8
LARGEST_DISAGREEMENT = 1e-3  # between scores and amplitudes, relative; float32 alone causes 1e-6 to 1e-4


@dataclass(frozen=True)
class Classification:
    """How a network classifies the images of a split.

    Attributes:
        labels: the class of every image.
        cost: mean over the images of the cost that training minimised (eq. 48 by default).
        confusion: number of images of a class (row) that were taken for a class (column).
        probabilities: p(y|x) of every image (eq. 34).
        disagreement: max |alpha_y(x) - <x|Psi_y>| / max |<x|Psi_y>| over the first images, round-off by eq. 31; 0
            without states.
    """

    labels: Int64[Tensor, " images"]
    cost: float
    confusion: Int64[Tensor, "classes classes"]
    probabilities: Float[Tensor, "images classes"]
    disagreement: float

    @property
    def accuracy(self) -> float:
        """The part of the images that is classified correctly."""
        return (self.confusion.trace() / self.confusion.sum()).item()

    @property
    def class_sizes(self) -> Int64[Tensor, " classes"]:
        """The number of images of every class."""
        return self.confusion.sum(1)

    @property
    def class_accuracies(self) -> Float[Tensor, " classes"]:
        """The part of every class's images that is classified correctly; NaN if there are none."""
        return self.confusion.diagonal().double() / self.class_sizes

    @property
    def own_probabilities(self) -> Float[Tensor, " images"]:
        """p(l(x)|x) of every image x with label l(x)."""
        return self.probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    @property
    def class_probabilities(self) -> Float[Tensor, " classes"]:
        """The mean of p(l(x)|x) over every class's images; NaN if there are none."""
        total = self.probabilities.new_zeros(self.probabilities.shape[1])
        return total.index_add(0, self.labels, self.own_probabilities) / self.class_sizes


@dataclass(frozen=True)
class Examples:
    """A few images of every class.

    Attributes:
        index: their places in the split; -1 if a class has fewer images.
        probability: p(l(x)|x), with the label l(x).
        taken_for: the most probable class.
        images: the images as the network sees them, upright.
    """

    index: Int64[Tensor, "classes examples"]
    probability: Float[Tensor, "classes examples"]
    taken_for: Int64[Tensor, "classes examples"]
    images: Real[Tensor, "classes examples height width"]


@dataclass(frozen=True)
class Evaluation:
    """A trained network, measured.

    Attributes:
        checkpoint: its file.
        epoch: the last epoch of its training.
        split: split of the classified images.
        data: name, size and pixel order of the data set.
        model: settings of the network.
        num_parameters: number of trained parameters.
        class_names: in the order of the labels.
        classification: cost, accuracy and probabilities.
        state: the states of the classes, or None.
        entanglement: their numbers, or None.
        pixel_entropies: the entropy of every pixel with all others, nats; None if the state does not give it.
        mean_images: mean image of every class, in grey levels of 0 to 255, or 0 to 1 for floats.
        most_probable: every class's images with the highest p(l(x)|x).
        least_probable: every class's images with the lowest p(l(x)|x).
    """

    checkpoint: Path
    epoch: int | None
    split: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    num_parameters: int
    class_names: tuple[str, ...]
    classification: Classification
    state: State | None
    entanglement: Entanglement | None
    pixel_entropies: Float[Tensor, "classes height width"] | None
    mean_images: Float[Tensor, "classes height width"]
    most_probable: Examples
    least_probable: Examples

    @property
    def entropy_and_error(self) -> tuple[float, float]:
        """Spearman's correlation of the classes' entropies and error rates, and its two-sided p-value.

        NaN if fewer than three classes have images, if all entropies or all error rates are equal, or without states.
        """
        if self.entanglement is None:
            return math.nan, math.nan
        known = self.classification.class_sizes > 0
        entropy, error = self.entanglement.entropy[known], 1 - self.classification.class_accuracies[known]
        if known.sum() < FEWEST_CLASSES or len(entropy.unique()) == 1 or len(error.unique()) == 1:
            return math.nan, math.nan
        return spearman(entropy.numpy(), error.numpy())

    def as_plain_data(self) -> dict[str, Any]:
        """Return all numbers as lists and dicts; None stands for what is not finite."""
        classification, entanglement = self.classification, self.entanglement
        correlation, p_value = self.entropy_and_error
        classes = {
            "name": self.class_names,
            "images": classification.class_sizes,
            "accuracy": classification.class_accuracies,
            "mean_probability": classification.class_probabilities,
        }
        of_states: dict[str, Any] = {}
        if entanglement is not None:
            classes |= {
                "entanglement_entropy": entanglement.entropy,
                "renyi_2": entanglement.renyi_2,
                "effective_schmidt_rank": entanglement.effective_schmidt_rank,
                "log_norm": entanglement.log_norm,
            }
            if entanglement.mean_order is not None:
                classes["mean_interaction_order"] = entanglement.mean_order
            of_states = {
                "overlaps": entanglement.overlaps,
                "schmidt_spectrum": entanglement.schmidt_spectrum,
                "block_sizes": entanglement.block_sizes,
                "entropy_profile": entanglement.profile,
                "pixel_entropies": self.pixel_entropies,
                "interaction_order": entanglement.interaction_order,
            }
        columns = [plain(column) for column in classes.values()]
        return plain(
            {
                "checkpoint": str(self.checkpoint),
                "epoch": self.epoch,
                "data": dict(self.data),
                "model": dict(self.model),
                "num_parameters": self.num_parameters,
                "split": self.split,
                "num_images": len(classification.labels),
                "cost": classification.cost,
                "accuracy": classification.accuracy,
                "disagreement": classification.disagreement,
                "mean_entanglement_entropy": None if entanglement is None else entanglement.entropy.mean(),
                "entropy_and_error": {"spearman": correlation, "p_value": p_value},
                "classes": [dict(zip(classes, row, strict=True)) for row in zip(*columns, strict=True)],
                "confusion": classification.confusion,
                **of_states,
                "most_probable": described(self.most_probable),
                "least_probable": described(self.least_probable),
            }
        )


def class_of(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of a model's class; nothing for a state in a file, which has none."""
    target = model.get("_target_")
    return {} if target is None else {"class": str(target).rpartition(".")[2]}


def spearman(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return Spearman's correlation, and its two-sided p-value: over all permutations of few points, else Student's."""
    result = spearmanr(first, second)
    if len(first) > MOST_PERMUTED:
        return float(result.statistic), float(result.pvalue)
    ranks = rankdata(second)
    # As many resamples as there are permutations: each once.
    exact = permutation_test(
        (rankdata(first),),
        lambda x, axis: (x * ranks).sum(axis),
        permutation_type="pairings",
        n_resamples=math.factorial(MOST_PERMUTED),
    )
    return float(result.statistic), float(exact.pvalue)


def measure(
    network: nn.Module,
    cost: Cost,
    datamodule: SplitImages,
    split: str,
    checkpoint: Path,
    epoch: int | None,
    settings: Mapping[str, Any],
) -> Evaluation:
    """Measure a model on the images of a split.

    Args:
        network: the model, in evaluation mode, on its device.
        cost: cost of an image.
        datamodule: the data, set up.
        split: name of the split.
        checkpoint: the network's file.
        epoch: the last epoch of its training.
        settings: the run's configuration.
    """
    with torch.no_grad():
        state: State | None = network.state()  # type: ignore[operator]
        images, labels = datamodule.splits[split]
        classification = classify(network, cost, state, images, labels, datamodule.num_classes)
        entanglement = None if state is None else measure_entanglement(state)
    order, shape = datamodule.pixel_order, datamodule.image_shape
    upright = lay_on_image(images, order, shape)
    by_class = [upright[labels == label].double() for label in range(datamodule.num_classes)]
    return Evaluation(
        checkpoint=checkpoint,
        epoch=epoch,
        split=split,
        data={key: settings["data"].get(key) for key in ("name", "size", "flatten", "seed")},
        model=class_of(settings["model"])
        | {key: value for key, value in settings["model"].items() if not key.startswith("_") and key != "kernel"},
        num_parameters=num_parameters(network),
        class_names=datamodule.class_names,
        classification=classification,
        state=state,
        entanglement=entanglement,
        pixel_entropies=(
            lay_on_image(entanglement.block_entropies[0], order, shape)
            if entanglement is not None and entanglement.block_entropies
            else None
        ),
        mean_images=torch.stack([own.mean(0) if len(own) else own.new_zeros(own.shape[1:]) for own in by_class]),
        most_probable=choose_examples(classification, upright, descending=True),
        least_probable=choose_examples(classification, upright, descending=False),
    )


def classify(
    network: nn.Module,
    cost: Cost,
    state: State | None,
    images: Real[Tensor, "images sites"],
    labels: Int64[Tensor, " images"],
    num_classes: int,
) -> Classification:
    """Classify images by the model's largest |alpha_y(x)| (eq. 35), and compute p(y|x) from its states (eq. 34)."""
    device = next(network.parameters()).device
    costs, chosen, probabilities = [], [], []
    for pixels, own in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        scores = scores_for(cost, network)(pixels.to(device))
        costs.append(cost(scores, own.to(device)).cpu())
        chosen.append(most_probable(cost, scores).cpu())
        if state is None and getattr(cost, "of_log_joint", False):
            probabilities.append(scores.cpu().double().softmax(-1))
        elif state is None:
            probabilities.append(probabilities_of(scores.cpu()))
        else:
            probabilities.append(state.conditional_probability(pixels))
    return Classification(
        labels=labels,
        cost=torch.cat(costs).double().mean().item(),
        # Counted by hand: torchmetrics takes longer to import than all of a small evaluation.
        confusion=torch.bincount(num_classes * labels + torch.cat(chosen), minlength=num_classes**2).view(
            num_classes, num_classes
        ),
        probabilities=torch.cat(probabilities),
        disagreement=0.0 if state is None else disagreement(network, state, images[:BATCH_SIZE]),
    )


def probabilities_of(alpha: Float[Tensor, "images classes"]) -> Float[Tensor, "images classes"]:
    """Return p(y|x) = alpha_y(x)^2 / sum_y' alpha_y'(x)^2 from the scores, for a model without a state (eq. 34)."""
    squares = alpha.double().square()
    return squares / squares.sum(-1, keepdim=True)


def disagreement(network: nn.Module, state: State, images: Real[Tensor, "images sites"]) -> float:
    """Return max |alpha_y(x) - <x|Psi_y>| / max |<x|Psi_y>|: round-off, by eq. 31.

    Normalised scores are amplitudes divided by their norm; those of complex amplitudes are |alpha_y(x)|. Scores without
    a factor of every image (`relative_scores`) are compared like normalised ones.
    """
    logarithm, sign = state.log_amplitude(images)
    scores_of: Any = getattr(network, "relative_scores", network)
    scores = scores_of(images.to(next(network.parameters()).device)).cpu().double()
    if scores_of is not network or network.normalises_scores:
        logarithm = logarithm - (2 * logarithm).logsumexp(-1, keepdim=True) / 2
        scores = scores / scores.norm(dim=-1, keepdim=True)
    amplitude = logarithm.exp() if sign.is_complex() else sign * logarithm.exp()
    return ((scores - amplitude).abs().max() / amplitude.abs().max()).item()


def choose_examples(
    classification: Classification, upright: Real[Tensor, "images height width"], descending: bool
) -> Examples:
    """Choose every class's images with the highest, or the lowest, p(l(x)|x)."""
    num_classes = classification.probabilities.shape[1]
    # NaN where all amplitudes vanish.
    own = classification.own_probabilities.nan_to_num(0)
    ranked = own.argsort(descending=descending, stable=True)
    index = torch.full((num_classes, EXAMPLES), -1)
    for label in range(num_classes):
        first = ranked[classification.labels[ranked] == label][:EXAMPLES]
        index[label, : len(first)] = first
    return Examples(
        index=index,
        probability=torch.where(index >= 0, own[index], torch.nan),
        taken_for=classification.probabilities.argmax(1)[index],
        images=upright[index],
    )


def described(examples: Examples) -> list[list[dict[str, Any]]]:
    """Return examples as plain data: a list per class."""
    return [
        [
            {"index": index, "probability": probability, "taken_for": taken_for}
            for index, probability, taken_for in zip(*rows, strict=True)
            if index >= 0
        ]
        for rows in zip(
            examples.index.tolist(), examples.probability.tolist(), examples.taken_for.tolist(), strict=True
        )
    ]


def plain(value: Any) -> Any:
    """Return nested tensors and mappings as lists and dicts; None stands for what is not finite."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(numbers: Mapping[str, Any]) -> str:
    """Return numbers as JSON, one line for each number or matrix."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in numbers.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
