"""`python -m reproduction.keep_runs multirun/<study>... reproduction/metrics`: store what the page needs of runs.

Of every finished run the metrics, summary, configuration and overrides are kept; no checkpoint.
"""

import argparse
import json
from pathlib import Path

from qcnn_lightning.command_line import one_message
from qcnn_lightning.files import inside
from qcnn_lightning.runs.checksums import FILES_KEY, OWN_KEY, sealed
from qcnn_lightning.runs.find import find_runs
from qcnn_lightning.runs.run import ABOUT_HYDRA, SUMMARY
from reproduction.archives import SUFFIX, read_archive, write_archive

KEPT = ("metrics.csv", "summary.json", ".hydra/config.yaml", ".hydra/overrides.yaml")


def keep_study(study: Path, out: Path) -> tuple[int, int]:
    """Add the finished runs of a study to `out/<study's name>.tar.xz`, in place of what is stored of them already.

    Args:
        study: the sweep's folder.
        out: folder of the archives.

    Returns:
        How many have finished and are kept, and how many have not.

    Raises:
        InputError: there is no run, or a file cannot be read or written.
    """
    name = study.resolve().name
    archive = out / f"{name}{SUFFIX}"
    files = read_archive(archive) if archive.is_file() else {}
    kept = left = 0
    for run in find_runs(study):
        if run.summary.get("status") != "finished":
            left += 1
            continue
        files |= {f"{name}/{run.name}/{file}": inside(run.folder, file).read_bytes() for file in KEPT}
        files[f"{name}/{run.name}/{SUMMARY}"] = without_hydra(files[f"{name}/{run.name}/{SUMMARY}"])
        kept += 1
    write_archive(archive, files)
    return kept, left


def without_hydra(summary: bytes) -> bytes:
    """Return a summary without the checksum of Hydra's settings, which are not kept: they name a machine's folders."""
    said = json.loads(summary)
    if FILES_KEY not in said:
        return summary
    files = {name: said[FILES_KEY][name] for name in sorted(said[FILES_KEY]) if name != ABOUT_HYDRA}
    return sealed({key: said[key] for key in said if key != OWN_KEY}, [], files).encode()


def main() -> None:
    """Keep the runs of the studies named on the command line."""
    parser = argparse.ArgumentParser(description="Keep the metrics of finished runs.")
    parser.add_argument("studies", nargs="+", type=Path, metavar="study", help="multirun/<study>")
    parser.add_argument("out", type=Path, help="folder of the archives, one per study")
    given = parser.parse_args()
    for study in given.studies:
        kept, left = keep_study(study, given.out)
        print(f"{study}: {kept} finished runs kept in {given.out}, {left} others left out")


if __name__ == "__main__":
    with one_message():
        main()
