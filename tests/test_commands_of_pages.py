"""Every command of the pages: run as it stands there, or by another test, or, where it takes longer, composed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib import pyplot as plt

from commands import clean_environment, command
from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
STUDIES = [PROJECT / "reproduction" / "README.md", PROJECT / "reproduction" / "networks" / "README.md"]
PROGRAMS = ("qcnn-", "python ", "make ", "pip ", "git ", "source ", "eval ", ".venv/", "tests/", "wandb ")

# Page -> those of its commands that are run here, in this order, as they stand there.
RUN = {
    "README": ["qcnn-runs", "qcnn-report", "qcnn-evaluate"],
    "get_started": ["qcnn-train experiment", "qcnn-runs", "qcnn-evaluate", "qcnn-report"],
    "command_line": ["qcnn-train experiment=quickstart model", "qcnn-train experiment=quickstart --cfg"],
    "data": ["qcnn-train data=digits ", "qcnn-train data=folder", "python -c"],
    "evaluation": ["qcnn-evaluate run", "qcnn-evaluate checkpoint=best", "qcnn-evaluate --help"],
    "report": ["qcnn-report runs=multirun/<sweep> ", "qcnn-report runs=[", "qcnn-runs"],
    "wandb": ["qcnn-train", "qcnn-dashboard"],
}
# Where the others are run, or why they are not. A command is that of the first that it begins with.
ELSEWHERE = {
    "make setup": ".ci/run",
    "make test": ".ci/run",
    "make lint": ".ci/run",
    'make train ARGS="experiment=quickstart"': ".ci/run, first of all",
    "make results": "tests/reproduction/test_draw_results.py",
    "make ": "trains for minutes, hours or days",
    "git clone": "this is a clone",
    ".venv/bin/python -m pytest": "this is a test",
    ".venv/bin/python -m tests.campaigns": "tests/campaigns/test_campaigns.py",
    "pip install": "the tests install nothing",
    "source ": "make has done it",
    "wandb ": "needs an account",
    "eval ": "tests/test_scripts.py",
    "tests/slurm": "tests/slurm/test_slurm.py",
    "python spins.py": "tests/data/test_own_data.py",
    "qcnn-train data=own data.name=mine.Stripes": "tests/data/test_own_data.py",
    "qcnn-train data=own": "stands for a source of your own",
    "qcnn-train data=arrays": "tests/data/test_own_data.py, tests/test_extend_page.py",
    "qcnn-train data=digits data.flatten=mine.snake": "tests/data/test_own_data.py",
    "qcnn-evaluate checkpoint=reproduction": "tests/reproduction/test_studies.py",
    "qcnn-evaluate run=<run> own=": "tests/test_extend_page.py",
    "qcnn-evaluate runs=[multirun": "tests/evaluation",
    "qcnn-evaluate runs=multirun/classes": "tests/evaluation/test_sample.py",
    "qcnn-evaluate state=": "tests/evaluation/test_sample.py",
    "qcnn-predict": "tests/evaluation/test_predict.py",
    "qcnn-compress": "tests/evaluation/test_compress.py",
    "qcnn-sample": "tests/evaluation/test_sample.py",
    "qcnn-train data=digits model.d=6 trainer.max_epochs=120": "tests/training/test_resume.py",
    "qcnn-report runs=multirun/<sweep> watch=true": "tests/report/test_report.py",
    "qcnn-train -m hydra/launcher=slurm": "tests/slurm/test_slurm.py",
    "qcnn-train -m hydra/launcher=ray": "tests/ray/test_ray.py",
    "qcnn-train -m hydra/sweeper=search": "tests/training/test_sweep.py",
    "qcnn-train -m hydra/launcher=joblib": "tests/training/test_sweep.py",
    "qcnn-train -m hydra/launcher=together": "tests/training/test_together.py",
    "qcnn-train --config-dir FOLDER": "tests/reproduction/test_studies.py",
}


def lines_of(page: Path) -> list[str]:
    """The commands of a page, without their comments; a line that ends in a backslash goes on."""
    text = page.read_text()
    blocks = re.findall(r"(?:^ {4}\S.*\n)+", text, re.MULTILINE) + re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = (line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [re.split(r"\s+# ", line)[0].strip() for line in lines if line.startswith(PROGRAMS)]


COMMANDS = {page.stem: lines_of(page) for page in PAGES}
EXTEND = COMMANDS.pop("extend")


def run_here(page: str, line: str) -> bool:
    return any(f"{line} ".startswith(begin) for begin in RUN.get(page, ())) and not told_elsewhere(line)


def told_elsewhere(line: str) -> bool:
    return any(line.startswith(begin) for begin in ELSEWHERE)


TRAINING = [line for page in (*PAGES, *STUDIES) for line in lines_of(page) if line.startswith("qcnn-train ")]
COMPOSED = sorted({line for line in TRAINING if not told_elsewhere(line) and not re.search("mine|<|--", line)})


@pytest.mark.parametrize("line", COMPOSED)
def test_a_training_command_has_settings_that_exist(line):
    arguments = [argument for argument in shlex.split(line)[1:] if argument != "-m"]
    overrides = OverridesParser.create().parse_overrides(arguments)
    chosen = [
        f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else override.input_line
        for override in overrides
    ]
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        assert compose("train", chosen, return_hydra_config=True).trainer.max_epochs > 0


def test_every_command_of_every_page_is_run_or_said_to_be_run_elsewhere():
    assert sum(map(len, COMMANDS.values())) > 40
    untold = {
        line
        for page, lines in COMMANDS.items()
        for line in lines
        if not run_here(page, line) and not told_elsewhere(line) and line not in COMPOSED
    }
    assert untold == set()
    for page, begins in RUN.items():
        assert all(any(f"{line} ".startswith(begin) for line in COMMANDS[page]) for begin in begins), page
    # The extension page has a test of its own, which takes the lines that begin so.
    assert all(line.startswith(("qcnn-train ", "qcnn-evaluate run=<run>")) for line in EXTEND)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the pages take for granted: runs, a checkpoint, photographs."""
    folder = tmp_path_factory.mktemp("pages")
    sweep = "multirun/<sweep>"
    settings = ("experiment=quickstart", "trainer.max_epochs=4", "data.val_size=100", "logger=none")
    done = command("qcnn_lightning.train", *settings, f"hydra.run.dir='{sweep}/<job>'", folder=folder)
    assert done.returncode == 0, done.stderr
    for name in ("a", "b", "widths"):
        shutil.copytree(folder / sweep, folder / "multirun" / name)
    shutil.copy(folder / sweep / "<job>" / "checkpoints" / "last.ckpt", folder / "best.ckpt")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "photos" / "train" / label).mkdir(parents=True)
        for number in range(60):
            image = random.random((16, 16)) * np.linspace(0, 1, 16)[:: 1 if label == "cat" else -1]
            plt.imsave(folder / "photos" / "train" / label / f"{number}.png", image, cmap="gray")
    (folder / "docs").mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_do_what_they_say_one_after_another(page, folder):
    for line in (line for line in COMMANDS[page] if run_here(page, line)):
        program, *arguments = shlex.split(line.replace("<you>", "you"))
        if program in ("python", "qcnn-dashboard"):
            # wandb-workspaces warns of itself, which is an error otherwise.
            module = ["-m", "qcnn_lightning.dashboard"] if program != "python" else []
            started = [sys.executable, *module, *arguments]
            done = subprocess.run(started, cwd=folder, env=clean_environment(), capture_output=True, text=True)
        else:
            module = f"qcnn_lightning.{program.removeprefix('qcnn-')}"
            done = command(module, *arguments, folder=folder)
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
        assert "error" not in done.stderr.lower(), line


PYTHON = [
    (page.stem, code)
    for page in (*PAGES, *STUDIES[1:])
    # Those have tests of their own, with the runs and files that they need.
    if page.stem not in ("extend", "python", "state", "state_format", "density", "mps")
    for code in re.findall(r"^```python\n(?!# \w+\.py)(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_of_a_page_runs(page, code, tmp_path):
    if page == "evaluation":
        network = PROJECT / "reproduction" / "networks" / "digits_full.ckpt"
        settings = ("figures=[]", f"checkpoint={network}", "out=evaluation")
        assert command("qcnn_lightning.evaluate", *settings, folder=tmp_path).returncode == 0
    else:
        (tmp_path / "reproduction").symlink_to(PROJECT / "reproduction")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
