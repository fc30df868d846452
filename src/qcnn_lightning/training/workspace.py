"""The saved view of a W&B project: entanglement entropy against cost over all runs, grouped by data set and d.

It uses the metric names that `tracking` logs, and the flat configuration keys `data_set`, `d`, `seed`.
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
from qcnn_lightning.training.tracking import CHARTS, COST_AXES, ENTROPY_PREFIX, SCATTERS, Chart, logged_in

log = logging.getLogger(__name__)

# Okabe and Ito's colours: distinct for colour-blind readers too.
DATA_SET_COLORS: dict[object, object] = {
    "mnist": "#0072B2",
    "fmnist": "#D55E00",
    "digits": "#009E73",
    "folder": "#CC79A7",
}
COSTS = {"cost/train": "train cost", "cost/batch": "cost of the batches", "cost/test": "test cost"}
CLASSES = "class_[0-9]+"


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
            groupby=[expr.Config("data_set"), expr.Config("d")],
            group_colors=DATA_SET_COLORS,
            pinned_columns=[
                "config:data_set",
                "config:d",
                "config:seed",
                f"summary:{ENTROPY_PREFIX}mean",
                "summary:best/accuracy/test",
                "summary:correlation/spearman_test",
            ],
        ),
    )


def mean_against_cost() -> Iterator[panels.LinePlot]:
    """Yield the mean entropy against every cost, a line per run."""
    for section, cost in COST_AXES.items():
        yield panels.LinePlot(
            title=f"Entanglement entropy against {COSTS[cost]}",
            x=cost,
            y=[f"{section}/mean"],
            title_x=COSTS[cost],
            title_y="mean entanglement entropy (nats)",
            max_runs_to_show=100,
        )


def over_runs() -> Iterator[panels.ScatterPlot]:
    """Yield the last entropy against every last cost, a point per run."""
    for cost in COST_AXES.values():
        yield panels.ScatterPlot(
            title=f"Final entropy against final {COSTS[cost]}",
            x=panels.SummaryMetric(cost),
            y=panels.SummaryMetric(f"{ENTROPY_PREFIX}mean"),
        )


def classes() -> Iterator[panels.LinePlot]:
    """Yield the entropies of the classes against the epoch and against every cost, a line per class and run."""
    axes = {"epoch": (ENTROPY_PREFIX, "epoch")}
    axes |= {cost: (f"{section}/", COSTS[cost]) for section, cost in COST_AXES.items()}
    for axis, (prefix, label) in axes.items():
        yield panels.LinePlot(
            title=f"Entropy of every class against {label}",
            x=axis,
            metric_regex=f"^{prefix}{CLASSES}$",
            title_x=label,
            title_y="entanglement entropy (nats)",
        )


def over_epochs() -> Iterator[panels.LinePlot]:
    """Yield the panels over the epochs, a line per run."""
    drawn = {
        "Mean entanglement entropy": ([f"{ENTROPY_PREFIX}mean"], "nats"),
        "Accuracy": (["accuracy/train", "accuracy/test"], "fraction"),
        "Cost": (list(COSTS), "cost (eq. 48)"),
        "Learning rate": (["learning_rate"], "learning rate"),
    }
    for title, (metrics, unit) in drawn.items():
        yield panels.LinePlot(title=title, x="epoch", y=[*metrics], title_x="epoch", title_y=unit)


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
