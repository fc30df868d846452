"""A run's folder for scripts and notebooks: its network, its states, and a figure; and the runs of a sweep."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import inside
from qcnn_lightning.runs.run import STATES, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from qcnn_lightning.runs.checkpoint import StoredCheckpoint
    from qcnn_lightning.states import State


class TrainedRun(Run):
    """A run, read from its folder: settings, metrics, and what it has learned.

    Args:
        folder: the run's folder.
        name: what to call the run; by default as its folder is called.
        own: your own code that its network may use, by dotted path; nothing else in the folder is executed.
    """

    def __init__(self, folder: str | Path, name: str | None = None, own: Sequence[str] = ()):
        super().__init__(folder, name)
        self.own = tuple(own)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self.facts().items())
        return f"TrainedRun({str(self.folder)!r}: {facts})"

    def facts(self) -> dict[str, Any]:
        """Return what the run is and what came of it, as far as that is known: name -> text or number."""
        facts: dict[str, Any] = {"data": self.data, "d": self.d, "seed": self.seed, "status": self.status}
        final = self.summary.get("final", {})
        for name, key, form in (
            ("epochs", "epoch", lambda epoch: int(epoch) + 1),
            ("test accuracy", "accuracy/test", "{:.2%}".format),
            ("mean EE (nats)", "ee/mean", "{:.3f}".format),
        ):
            if isinstance(final, Mapping) and isinstance(final.get(key), int | float):
                facts[name] = form(final[key])
        return facts

    @cached_property
    def network(self) -> "nn.Module":
        """The network of the last epoch, in evaluation mode, on the CPU.

        Raises:
            InputError: the run has no weights, or those of a network that is not in `own`.
        """
        from qcnn_lightning.runs.rebuild import network_of

        return network_of(self._last_checkpoint(), self.own)

    def state(self, epoch: int | None = None) -> "State":
        """Return the states of the network, one per class, without gradients.

        Args:
            epoch: whose states; -1 is before training; None for the last.

        Raises:
            InputError: the states of this epoch were not kept, or the network has none.
        """
        import torch

        from qcnn_lightning.states import StoredState

        if epoch is not None and epoch != self.last_epoch:
            return self._kept_state(epoch)
        network: Any = self.network
        # The network's own state has gradients.
        with torch.no_grad():
            found: State | None = network.state()
        if found is None:
            raise InputError(f"{self.folder}: a {type(self.network).__name__} has no states")
        return self._described(found) if isinstance(found, StoredState) else found

    def _kept_state(self, epoch: int) -> "State":
        from qcnn_lightning.basis import BASES
        from qcnn_lightning.runs.rebuild import named_part

        path = inside(self.folder, STATES)
        named_part(str(self.settings.get("model.basis", "fourier")), BASES, self.own, path)
        kept: dict[int, Any] = {}
        if path.is_file():
            network: Any = self.network
            kept = type(network.state()).load_epochs(path)
        if epoch not in kept:
            told = (
                f"those of epochs {', '.join(map(str, kept))} were kept" if kept else "only those of the last were kept"
            )
            raise InputError(
                f"epoch={epoch}: {self.folder} has no states of this epoch; {told}. "
                "Train with callbacks.states.every_n_epochs=1 to keep those of all"
            )
        found: State = self._described(kept[epoch])
        return found

    def _described(self, state: Any) -> Any:
        """Return a state that knows its classes' names, and where its pixels stand if this is an order of ours."""
        from qcnn_lightning.data.flattening import FLATTENINGS, pixel_order
        from qcnn_lightning.runs.metrics import as_number
        from qcnn_lightning.states.layout import ImageLayout

        names = self.summary.get("class_names")
        names = list(map(str, names)) if isinstance(names, list) and len(names) == state.num_classes else None
        size, layout = as_number(self.settings.get("data.size")), state.layout
        if layout is None and self.flatten in FLATTENINGS and size >= 1 and size**2 <= state.num_sites:
            order = pixel_order(self.flatten, int(size), int(size))
            layout = ImageLayout.of(order, (int(size), int(size))) if len(order) == state.num_sites else None
        return state.described(names, layout)

    def _last_checkpoint(self) -> "StoredCheckpoint":
        found = self.checkpoint()
        if found is None:
            raise InputError(f"{self.folder} has no checkpoint: no epoch has been completed, or it was deleted")
        return found

    def plot(self, window: int = 2, first_epoch: int | None = None) -> "Figure":
        """Draw the mean entanglement entropy against train and test cost; points darken with the epochs.

        Args:
            window: epochs over which entropies are averaged.
            first_epoch: the first epoch that is drawn; None for 30, or a third of the run if that is less.

        Raises:
            InputError: no epoch has both, or a value that cannot be used.
        """
        from qcnn_lightning.figure_style import styled
        from qcnn_lightning.labels import setting
        from qcnn_lightning.notebook import png_of
        from qcnn_lightning.report.figures import figure_3a
        from qcnn_lightning.report.groups import Group
        from qcnn_lightning.report.layout import Choices

        with styled():
            variant = "" if self.d is None else setting("model.d", self.d)
            drawn = figure_3a([Group(self.data, self.bipartition, variant, (self,))], Choices(window, first_epoch))
        if isinstance(drawn, str):
            raise InputError(f"{self.folder}: {drawn}")
        # A notebook shows it, whether or not pyplot was imported.
        drawn._repr_png_ = partial(png_of, drawn)  # type: ignore[attr-defined]
        return drawn

    def _repr_html_(self) -> str:
        from qcnn_lightning.notebook import facts_html, figure_html

        try:
            figure = figure_html(self.plot())
        except InputError as error:
            figure = facts_html("", {"figure": str(error)})
        return facts_html(f"Run {self.folder}", self.facts() | {"command": self.command}) + figure


class Sweep(Sequence[TrainedRun]):
    """The runs of a sweep, in its order.

    Args:
        runs: one per job.
        errors: of jobs that failed, by the name of the run.

    Attributes:
        runs: as given.
        errors: as given; empty if every job finished.
    """

    def __init__(self, runs: Sequence[TrainedRun], errors: Mapping[str, str] | None = None):
        self.runs, self.errors = tuple(runs), dict(errors or {})

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, place: int) -> TrainedRun: ...

    @overload
    def __getitem__(self, place: slice) -> "Sweep": ...

    def __getitem__(self, place: int | slice) -> "TrainedRun | Sweep":
        return Sweep(self.runs[place], self.errors) if isinstance(place, slice) else self.runs[place]

    def __iter__(self) -> Iterator[TrainedRun]:
        return iter(self.runs)

    def __repr__(self) -> str:
        return repr(self.table)

    @property
    def table(self) -> pd.DataFrame:
        """A row per run: the settings that differ between runs, status, epochs, and the last epoch's measurements."""
        keys = {key: None for run in self for key in run.settings if key not in run.repeating_settings}
        varying = [
            key
            for key in keys
            if not key.startswith(("run_dir", "hydra")) and len({str(run.settings.get(key)) for run in self}) > 1
        ]
        rows = []
        for run in self:
            final = run.summary.get("final", {})
            numbers = {key: final[key] for key in MEASUREMENTS if key in final}
            varied = {key: run.settings.get(key) for key in varying}
            epochs = int(final.get("epoch", -1)) + 1
            rows.append(varied | {"status": run.status, "epochs": epochs} | numbers)
        return pd.DataFrame(rows, index=pd.Index([run.name for run in self], name="run"))

    def _repr_html_(self) -> str:
        from qcnn_lightning.notebook import facts_html

        # pandas escapes the text.
        return self.table.to_html() + (facts_html("Failed", self.errors) if self.errors else "")


MEASUREMENTS = ("accuracy/train", "accuracy/val", "accuracy/test", "cost/train", "cost/test", "ee/mean")
