"""The pages: links lead somewhere, and docs/theory.md names what the package has, and all of it."""

import importlib
import inspect
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

import qcnn_lightning

PACKAGE = Path(qcnn_lightning.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "theory.md").read_text(encoding="utf-8")

# `file.py`, `name`, `Class.name`, ...
PLACES = re.findall(r"`([\w/]+\.(?:py|cpp))`((?:,\s+`[\w.]+`)*)", PAGE)
FILES = sorted({file for file, _ in PLACES})
NAMES = sorted({(file, name) for file, names in PLACES for name in re.findall(r"`(.+?)`", names)})
CLOSING_TABLE = PAGE.partition('<a id="table">')[2]
ROWS = re.findall(r"^\| \[(\d+)\]\(#eq-(\d+)\) \| .+ \| (.+) \|$", CLOSING_TABLE, re.MULTILINE)


def module(file):
    return importlib.import_module(".".join(("qcnn_lightning", *Path(file).with_suffix("").parts)))


def has(owner, name):
    """Whether a module or class has what is called so; what a class sets on itself or declares as a field counts."""
    first, _, rest = name.partition(".")
    if rest:
        return hasattr(owner, first) and has(getattr(owner, first), rest)
    if hasattr(owner, first) or not inspect.isclass(owner):
        return hasattr(owner, first)
    return first in inspect.get_annotations(owner) or bool(re.search(rf"\bself\.{first}\b", inspect.getsource(owner)))


def equations_in(text):
    """Numbers of all equations named like this: eq. 4, eq. 15, 16, eq. 37-45."""
    for listed in re.findall(r"\beq\.\s+(\d+(?:[-–]\d+)?(?:,\s+\d+(?:[-–]\d+)?)*)", text):
        for numbers in re.split(r",\s+", listed):
            first, *last = map(int, re.split("[-–]", numbers))
            yield from range(first, (last or [first])[0] + 1)


def test_every_file_that_the_page_names_exists():
    assert len(FILES) > 10
    assert [file for file in FILES if not (PACKAGE / file).is_file()] == []


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_every_place_that_the_page_names_exists(file, name):
    assert has(module(file), name)


def test_every_class_that_the_page_names_without_its_file_exists_too():
    modules = [module(file) for file in FILES if file.endswith(".py")]
    names = set(re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", PAGE))
    assert len(names) > 50
    assert {name for name in names if not any(has(one, name) for one in modules)} == set()


def test_what_does_not_exist_is_found_missing():
    network = module("models/convolution.py")
    assert has(network, "NormalisedConvolution.gamma")
    assert not any(has(network, name) for name in ("NormalisedConvolution.gam", "Convolution", "Convolution.gamma"))
    assert list(equations_in("(eq. 1, 19), eq. 42,\n43 and eq. 13-16")) == [1, 19, 42, 43, 13, 14, 15, 16]


def test_the_closing_table_has_every_equation_of_the_paper_in_order_and_a_place_or_a_reason_for_each():
    assert [(int(number), int(anchor)) for number, anchor, _ in ROWS] == [(k, k) for k in range(1, 49)]
    assert [place for _, _, place in ROWS if not re.search(r"`[\w/]+\.py`, `\w|^none: \w", place)] == []


def test_every_equation_that_the_package_names_has_a_row_in_the_closing_table():
    rows = {int(number) for number, _, _ in ROWS}
    sources = [path for kind in ("*.py", "*.cpp", "*.h") for path in PACKAGE.rglob(kind)]
    named = {(str(path), equation) for path in sources for equation in equations_in(path.read_text(encoding="utf-8"))}
    assert len(named) > 100
    assert {(path, equation) for path, equation in named if equation not in rows} == set()


def test_every_link_within_the_page_leads_to_a_place_on_it():
    titles = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    anchors = set(re.findall(r'<a id="([\w-]+)">', PAGE))
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) - headings - anchors == set()


def test_no_formula_holds_what_markdown_takes_for_its_own():
    """Emphasis: a star, an underscore after punctuation. Escapes: a backslash before punctuation. Tables and tags."""
    formulas = [block or inline for block, inline in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", PAGE)]
    assert len(formulas) > 200
    assert [formula for formula in formulas if re.search(r"[^A-Za-z0-9]_|\\[^A-Za-z]|[*|<>]", formula)] == []


PROJECT = Path(__file__).parents[1]
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("reproduction/**/*.md")])
LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page: those of its headings, as GitHub makes them, and its own."""
    text = page.read_text()
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in kept} | set(re.findall(r'<a id="(.+?)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_local_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_show_figures():
    assert sum(page.read_text().count("![") for page in PAGES) > 10


def test_notebooks_are_kept_without_what_they_print():
    """It would go stale: the site runs them."""
    notebooks = [json.loads(path.read_text()) for path in PROJECT.glob("docs/**/*.ipynb")]
    assert len(notebooks) == 2
    cells = [cell for notebook in notebooks for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
