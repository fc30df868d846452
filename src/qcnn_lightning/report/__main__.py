"""`qcnn-report`, or `python -m qcnn_lightning.report`: the page, figures and tables of finished or running jobs."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, ListConfig

from qcnn_lightning.command_line import one_message, quote_paths, switch, whole_command
from qcnn_lightning.errors import InputError
from qcnn_lightning.terminal import raise_at_interrupt


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="report")
def main(config: DictConfig) -> None:
    """Write the report, say where it is and what is not in it."""
    # Imported only now, so that --help answers at once.
    from qcnn_lightning.figure_style import checked_formats
    from qcnn_lightning.report.console import show_report
    from qcnn_lightning.report.report import ReportSettings, default_folder, watch, write_report

    with one_message():
        if config.runs is None:
            raise InputError("runs=null: say which runs, as in runs=multirun/<sweep>")
        watched = switch(config, "watch")
        paths = [Path(str(path)) for path in (config.runs if isinstance(config.runs, ListConfig) else [config.runs])]
        out = Path(config.out) if config.out is not None else default_folder(paths)
        settings = ReportSettings(
            first_epoch=config.first_epoch,
            window=config.window,
            confidence=config.confidence,
            resamples=config.resamples,
            formats=checked_formats(config.figures),
        )
        if watched:
            raise_at_interrupt()
            try:
                watch(paths, out, settings, tell=show_report)
            except KeyboardInterrupt:
                return
        show_report(write_report(paths, out, settings))


def command() -> None:
    """Do what the command line says."""
    quote_paths("runs", "out")
    with whole_command():
        main()


if __name__ == "__main__":
    command()
