"""The saved view of a W&B project: entanglement entropy against cost over all runs, a line or a point per run.

It uses the metric names that `wandb_charts` has, and the flat configuration keys `data_set`, `d`, `seed`.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces
from wandb_workspaces import expr

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.labels import ENTROPY
from qcnn_lightning.training.tracking import logged_in
from qcnn_lightning.training.wandb_charts import (
    CHARTS,
    COSTS,
    ENTROPY_PREFIX,
    LIKELIHOODS,
    LINES,
    MEAN,
    SCATTERS,
    Chart,
)

log = logging.getLogger(__name__)

CLASS_ENTROPIES = f"^{ENTROPY_PREFIX}class_[0-9]+$"


def entanglement_workspace(entity: str, project: str) -> workspaces.Workspace:
    """Describe the view, without sending it. Entropies are in nats."""
    sections: dict[str, list[Any]] = {
        "Entanglement against cost": [*mean_against_cost(), *map(chart_panel, SCATTERS), *over_runs()],
        "Entanglement of every class": [*classes()],
        "Over the epochs": [*over_epochs()],
        "States and confusion": [chart_panel(chart) for chart in CHARTS if chart not in SCATTERS],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="Entanglement against cost",
        sections=[workspaces.Section(name=name, panels=drawn, is_open=True) for name, drawn in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=workspaces.RunsetSettings(
            order=[expr.Ordering(expr.Config("data_set")), expr.Ordering(expr.Config("d"))],
            pinned_columns=[
                "config:data_set",
                "config:d",
                "config:seed",
                f"summary:{MEAN}",
                "summary:best/accuracy/test",
                "summary:correlation/spearman_test",
            ],
        ),
    )


def mean_against_cost() -> Iterator[panels.LinePlot]:
    """Yield the mean entropy against every cost, a line per run."""
    for metric, cost in LINES.items():
        yield line_plot(f"Entanglement entropy against {COSTS[cost]}", cost, COSTS[cost], "mean EE (nats)", y=[metric])
    label = "test −log p(x), nats"
    yield line_plot(f"Of densities: entropies against {label}", "nats/test", label, "nats", y=[*LIKELIHOODS])


def over_runs() -> Iterator[panels.ScatterPlot]:
    """Yield the last entropy against every last cost, a point per run."""
    for cost in COSTS:
        yield panels.ScatterPlot(
            title=f"Final entropy against final {COSTS[cost]}",
            x=panels.SummaryMetric(cost),
            y=panels.SummaryMetric(MEAN),
        )


def classes() -> Iterator[panels.LinePlot]:
    """Yield the entropies of the classes against the epoch and against every cost, a line per class and run."""
    for axis, label in {"epoch": "epoch", **COSTS}.items():
        title = f"Entropy of every class against {label}"
        yield line_plot(title, axis, label, ENTROPY, metric_regex=CLASS_ENTROPIES)


def over_epochs() -> Iterator[panels.LinePlot]:
    """Yield the panels over the epochs, a line per run."""
    drawn = {
        "Mean entanglement entropy": ([MEAN], "mean EE (nats)"),
        "Accuracy": (["accuracy/train", "accuracy/test"], "accuracy"),
        "Cost": (["cost/train", "cost/batch", "cost/test"], "cost"),
        "Learning rate": (["learning_rate"], "learning rate"),
    }
    for title, (metrics, label) in drawn.items():
        yield line_plot(title, "epoch", "epoch", label, y=[*metrics])


def line_plot(title: str, x: str, title_x: str, title_y: str, **drawn: Any) -> panels.LinePlot:
    """Return a panel with a line per run and metric."""
    return panels.LinePlot(
        title=title, x=x, title_x=title_x, title_y=title_y, max_runs_to_show=100, aggregate=False, **drawn
    )


def chart_panel(chart: Chart) -> panels.CustomChart:
    """Return the panel of a chart that every run logs, for the runs shown."""
    return panels.CustomChart(
        query={"summaryTable": {"tableKey": chart.table}},
        chart_name=chart.preset,
        chart_fields=dict(chart.fields),
        chart_strings=dict(chart.strings),
    )


def title_of(panel: Any) -> str:
    """Return a panel's title."""
    return panel.chart_strings["title"] if isinstance(panel, panels.CustomChart) else panel.title


def publish(entity: str, project: str, specification: Path) -> str | None:
    """Create the view, or update the one of this specification file.

    Args:
        entity: W&B user or team.
        project: W&B project.
        specification: JSON file of the view's content and, once it exists, its address.

    Returns:
        The view's address. None without a login, or if W&B cannot be reached; then only the file is written.

    Raises:
        InputError: the specification belongs to another project, or cannot be read or written.
    """
    view = entanglement_workspace(entity, project)
    known = _read(specification)
    if known and (known["entity"], known["project"]) != (entity, project):
        raise InputError(
            f"{specification} describes the view of {known['entity']}/{known['project']}, not of {entity}/{project}; "
            "choose another out="
        )
    address = known.get("url")
    if logged_in():
        try:
            if address:
                existing = workspaces.Workspace.from_url(address)
                existing.sections, existing.settings = view.sections, view.settings
                existing.runset_settings = view.runset_settings
                view = existing
            address = view.save().url
        except (wandb.errors.Error, OSError, ValueError) as error:
            log.warning("W&B did not take the view (%s)", str(error).splitlines()[0])
            address = None
    else:
        log.info("no login to W&B (wandb login), so nothing is created there")
        address = None
    document = {
        "entity": entity,
        "project": project,
        "url": address or known.get("url"),
        "name": view.name,
        "sections": {section.name: [title_of(panel) for panel in section.panels] for section in view.sections},
        # The library has no public name for what it sends.
        "view": view._to_model().model_dump(by_alias=True, mode="json"),
    }
    specification.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(specification, json.dumps(document, indent=2) + "\n")
    return address


def describe(specification: Path) -> str:
    """Return the sections and panels of a specification file, a line each."""
    sections = json.loads(specification.read_text(encoding="utf-8"))["sections"]
    return "\n".join(line for section, titles in sections.items() for line in (section, *(f"  {t}" for t in titles)))


def _read(specification: Path) -> dict:
    if not specification.exists():
        return {}
    try:
        known = json.loads(specification.read_text(encoding="utf-8"))
        return {key: known[key] for key in ("entity", "project", "url")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{specification} was not written by this command: {error}") from error
