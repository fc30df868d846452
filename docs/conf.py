"""The documentation site: `make docs`. The pages are those of the repository, so links work on the site and off it."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
PAGES = (".md", ".ipynb", ".html", ".png", ".svg")
REPOSITORY = METADATA.get("urls", {}).get("Repository")

project = "qcnn_lightning"
version = release = METADATA["version"]
copyright = "the qcnn_lightning maintainers, Apache-2.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/**", "reproduction/**.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = ["docs/reference/modules.rst"]

html_theme = "furo"
html_title = project
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main"} if REPOSITORY else {}
html_static_path = ["static"]
html_css_files = ["site.css"]
# The report of the stored runs, made by `make docs`.
html_extra_path = ["../build/report"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

apidoc_modules = [{"path": "../src/qcnn_lightning", "destination": "docs/reference", "module_first": True}]
autodoc_member_order = "bysource"
# What the package's own namespace has is described where it is defined.
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_use_ivar = True
default_role = "py:obj"


def links_and_anchors(app, docname, source):
    """Give a page its anchors in MyST's words; links to code lead to the repository, or nowhere if that is unknown."""
    text = source[0]
    if docname == root_doc:
        introduction = (PROJECT / "README.md").read_text().partition("\n## ")[0]
        text = text.replace("<!-- introduction of README.md -->", re.sub(r"\]\((?!\w+:)", "](../", introduction))
    for anchors in re.findall(r'^(?:<a id="[\w-]+"></a>)+', text, re.MULTILINE):
        targets = "".join(f"({name})=\n" for name in re.findall(r'id="([\w-]+)"', anchors))
        text = text.replace(anchors, targets)

    def link(match):
        label, target = match.groups()
        path = (PROJECT / docname).parent / target.partition("#")[0]
        if ":" in target or path.suffix in PAGES:
            return match[0]
        address = f"{REPOSITORY}/blob/main/{path.resolve().relative_to(PROJECT)}"
        return f"[{label}]({address})" if REPOSITORY else label

    source[0] = re.sub(r"(?<!!)\[([^]\n]+)\]\(([^)\s#][^)\s]*)\)", link, text)


def short_titles(app, docname, source):
    """Call a page of the reference what it describes, where apidoc says "package", "module" and "Submodules"."""
    if docname.startswith("docs/reference/"):
        text = re.sub(r"^Sub(modules|packages)\n-+\n", "", source[0], flags=re.MULTILINE)
        source[0] = re.sub(r"^(.+) (package|module)$", r"\1", text, flags=re.MULTILINE)


def plain_formulas(app, what, name, obj, options, lines):
    """Let formulas in docstrings be what they look like: |Psi_y>, a * b and x_ mean nothing else outside of code."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"(`[^`]*`)|([|*_])", lambda match: match[1] or f"\\{match[2]}", line)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_formulas, priority=400)
    app.connect("source-read", links_and_anchors)
    app.connect("source-read", short_titles)
