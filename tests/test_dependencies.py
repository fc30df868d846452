"""What is imported is declared, what is declared is used, and what a package index shows leads somewhere."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qcnn_lightning import dashboard

PROJECT = Path(__file__).parents[1]
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
# Parts of commands and of reports that only those import who have installed an extra.
EXTRAS = {"dashboard": "training/workspace.py"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


CORE = named(METADATA["dependencies"])
OPTIONAL = {extra: named(listed) for extra, listed in METADATA["optional-dependencies"].items()}


def rglob(folder: str, kind: str) -> list[Path]:
    return sorted((PROJECT / folder).rglob(f"*.{kind}"))


def imported(*folders: str) -> dict[str, set[str]]:
    """Distributions that the files of these folders import, also within functions, and the files."""
    # Also the module that users write by docs/extend.md.
    ours = {"qcnn_lightning", "reproduction", "tests", "mine"}
    ours |= {path.stem for folder in ("tests", "benchmarks") for path in rglob(folder, "py")}
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in rglob(folder, "py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in {str(module).partition(".")[0] for module in modules} - ours - sys.stdlib_module_names:
                for distribution in distributions.get(module, [module]):
                    found.setdefault(canonical(distribution), set()).add(str(path.relative_to(PROJECT)))
    return found


def test_everything_that_the_library_imports_is_declared():
    missing = {name: files for name, files in imported("src").items() if name not in CORE}
    allowed = {
        name: {f"src/qcnn_lightning/{EXTRAS[extra]}"} for extra in EXTRAS for name in OPTIONAL[extra] if name in missing
    }
    assert missing == allowed


def test_everything_that_tests_studies_and_benchmarks_import_is_declared():
    declared = CORE.union(*OPTIONAL.values())
    found = imported("tests", "reproduction", "benchmarks")
    assert len(found) > 10
    assert {name: files for name, files in found.items() if name not in declared} == {}


def test_everything_that_is_declared_is_imported_or_named_where_plugins_are_or_what_another_process_runs():
    texts = [path.read_text() for folder, kind in (("conf", "yaml"), ("src", "py")) for path in rglob(folder, kind)]
    unused = CORE - set(imported("src"))
    assert {name for name in unused if not any(name.replace("-", "_") in text for text in texts)} == set()


@pytest.mark.parametrize(
    ("distribution", "private"),
    [
        ("hydra-core", r"hydra\._internal"),
        ("pytorch-lightning", r"pytorch_lightning\S* import .*\b_[a-zA-Z]"),
        ("wandb", r"wandb\.sdk"),
        ("wandb-workspaces", r"\._to_model\("),
    ],
)
def test_what_is_used_of_a_package_that_is_not_public_has_an_upper_bound_and_nothing_else_has(distribution, private):
    used = any(re.search(private, path.read_text()) for path in rglob("src", "py"))
    listed = [
        *METADATA["dependencies"],
        *(line for lines in METADATA["optional-dependencies"].values() for line in lines),
    ]
    (requirement,) = (line for line in listed if named([line]) == {distribution})
    assert ("<" in requirement) == used


def test_without_its_extra_the_dashboard_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        dashboard.main.__wrapped__(OmegaConf.create({"entity": "you", "project": "p", "out": "view.json"}))
    assert "pip install 'qcnn-lightning[dashboard]'" in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_package_index_all_links_of_the_readme_are_absolute_once_the_project_has_an_address(tmp_path):
    for name in ("src", "conf", "setup.py", "LICENSE", "README.md"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, tmp_path / name)
    address = 'Repository = "https://example.org/project"'
    written = (PROJECT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(re.sub(r"^# Repository = .*$", address, written, flags=re.MULTILINE))
    build = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    links = re.findall(r"\]\(([^)\s]+)\)", metadata.read_text())
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    for link in (link for link in links if "example.org" in link):
        kind, path = re.match(r"https://example.org/project/(blob|raw)/main/([^#]+)", link).groups()
        assert (PROJECT / path).exists()
        assert (kind == "raw") == path.endswith((".png", ".svg"))
