"""`python -m qcnn_lightning`: what there is to type."""

import sys

from qcnn_lightning import __version__

COMMANDS = {
    "train": ("experiment=quickstart", "train a network, or with -m a sweep"),
    "runs": ("multirun/<sweep>", "a table of jobs, also while they run"),
    "evaluate": ("run=multirun/<sweep>/<job>", "measure a trained network: spectra, profiles, overlaps"),
    "predict": ("run=multirun/<sweep>/<job> images=photos", "what a trained network takes images for"),
    "sample": ("run=multirun/<sweep>/<job> n=64", "images drawn from a trained density"),
    "compress": ("run=multirun/<sweep>/<job> parameters=0.5", "a trained tree with fewer channels"),
    "report": ("runs=multirun/<sweep>", "many runs on a page, in figures and tables"),
    "dashboard": ("entity=<you>", "the view of entropy against cost in Weights & Biases"),
}


def overview() -> str:
    """Return the commands, an example each."""
    lines = [f"qcnn_lightning {__version__}: q-CNNs and the entanglement of their quantum states", ""]
    for name, (arguments, told) in COMMANDS.items():
        lines.append(f"  {f'qcnn-{name} {arguments}':<62} {told}")
    return "\n".join(
        [*lines, "", "qcnn-<command> --help lists settings; python -m qcnn_lightning.<command> is the same."]
    )


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["-h"], ["--help"]):
        given = sys.argv[1]
        commands = ", ".join(f"qcnn-{name}" for name in COMMANDS)
        hint = f"type qcnn-{given}, or python -m qcnn_lightning.{given}" if given in COMMANDS else f"type {commands}"
        print(f"error: python -m qcnn_lightning {given}: {hint}", file=sys.stderr)
        sys.exit(2)
    print(overview())
