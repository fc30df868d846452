"""The page in a real browser: what it draws, what filters change, that it is quiet and asks no network."""

import re
import shutil
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import write_run, write_sweep

from qcnn_lightning.report.layout import wrapped
from qcnn_lightning.report.report import ReportSettings, write_report
from qcnn_lightning.report.svg import PAGE_STYLE, chart_of

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Of the renderer's own thread until the charts in view are drawn, and of the best of three, so that other work on the
# machine counts less.
LOADING_S = 1
TIMEOUT_MS = 600_000
SETTINGS = ReportSettings(first_epoch=30, window=2, confidence=0.95, resamples=20, formats=())

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(TIMEOUT_MS)
        yield context
        context.close()


@pytest.fixture(scope="module")
def hundred_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("hundred")
    flattenings = ("left_right", "up_down")
    write_sweep(root / "runs", d=(2, 6, 10, 18, 30), seeds=range(5), flatten=flattenings, profile_levels=8)
    return write_report([root / "runs"], root / "out", SETTINGS).page


@pytest.fixture
def open_page(browser):
    """Opens a page; at the end of the test it must have been quiet."""
    noise = []
    pages = []

    def opened(path):
        page = browser.new_page()
        pages.append(page)
        page.on("console", lambda message: noise.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or noise.append(request.url)
        )
        measure = browser.new_cdp_session(page)
        measure.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri())
        wait(page)
        metrics = measure.send("Performance.getMetrics")["metrics"]
        page.seconds_of_drawing = next(entry["value"] for entry in metrics if entry["name"] == "TaskDuration")
        return page

    yield opened
    for page in pages:
        page.close()
    assert noise == []


def wait(page):
    page.wait_for_selector("html[data-drawn=yes]")


def choose(page, label, text):
    page.locator("fieldset", has=page.locator(f"legend:text-is('{label}')")).get_by_role(
        "button", name=text, exact=True
    ).click()


def scroll_through(page):
    """Brings every chart into view, which draws it."""
    for chart in page.locator(".plot:visible").all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg").first.wait_for()


def visible_runs(page):
    """For every chart of all runs: the runs whose curves are seen."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".cell .plot")].map((plot) => [plot.dataset.chart,
          [...new Set([...plot.querySelectorAll(".data path[class^=r]")]
            .filter((path) => path.checkVisibility())
            .map((path) => Number(path.classList[0].slice(1))))].sort((a, b) => a - b)]))"""
    )


def pointed_at(page, mark):
    """Moves the mouse to the last point of a run's or a group's first path that is seen."""
    at = page.evaluate(
        """(mark) => {
          const path = [...document.querySelectorAll(`.data path.${mark}`)].find((path) => path.checkVisibility());
          path.closest(".plot").scrollIntoView({ block: "center" });
          const end = path.getPointAtLength(path.getTotalLength()).matrixTransform(path.getScreenCTM());
          return [end.x, end.y];
        }""",
        mark,
    )
    page.mouse.move(*at)
    page.locator("#hover").wait_for()
    return at


@pytest.mark.slow
def test_a_hundred_runs_are_drawn_in_a_second_and_only_what_is_in_view(open_page, hundred_runs):
    pages = [open_page(hundred_runs) for _ in range(3)]
    assert min(page.seconds_of_drawing for page in pages) < LOADING_S
    assert 0 < pages[0].locator(".plot > svg").count() < pages[0].locator(".plot").count()
    scroll_through(pages[0])
    assert pages[0].locator(".plot > svg").count() == pages[0].locator(".plot").count()


def test_filters_change_every_chart_and_table(open_page, hundred_runs):
    page = open_page(hundred_runs)
    scroll_through(page)
    everything = visible_runs(page)
    assert len(everything) == 8
    assert set(map(len, everything.values())) == {50, 100}

    choose(page, "data set", "MNIST")
    assert set(map(len, visible_runs(page).values())) == {25, 50}
    choose(page, "d", "18")
    assert set(map(len, visible_runs(page).values())) == {5, 10}
    choose(page, "seed", "3")
    choose(page, "pixel order", "up/down")
    shown = visible_runs(page).values()
    assert sorted(map(len, shown)) == [0, *[1] * 7]
    assert len({runs[0] for runs in shown if runs}) == 1
    for table, rows in (("runs", 1), ("accuracies", 1), ("correlations", 10)):
        assert page.locator(f"#{table} tbody tr:visible").count() == rows
    assert page.locator(".reason:visible").count() == 1
    assert page.locator(".small .plot:visible").count() == 2
    assert page.inner_text(".tile b") == "1 of 100"

    for label in ("pixel order", "seed", "d", "data set"):
        choose(page, label, "all")
    assert visible_runs(page) == everything


def test_hover_shows_the_run_and_its_command_and_a_click_opens_its_folder(open_page, hundred_runs):
    page = open_page(hundred_runs)
    choose(page, "seed", "3")
    choose(page, "d", "18")
    run = page.evaluate("report.runs.find(isShown).index")
    at = pointed_at(page, f"r{run}")
    told = page.inner_text("#hover")
    assert "epoch 89, accuracy" in told
    assert page.evaluate("run => report.runs[run].name", run) in told
    assert "python -m qcnn_lightning.train data=" in told
    with page.context.expect_page() as folder:
        page.mouse.click(*at)
    assert "/runs/data=" in folder.value.url.replace("%3D", "=")
    folder.value.close()
    # Away from all curves there is nothing to tell.
    page.mouse.move(2, 2)
    assert page.locator("#hover").is_hidden()


def test_what_is_read_off_a_curve_is_what_the_run_wrote(open_page, tmp_path):
    folder = write_run(tmp_path / "runs/only", epochs=40)
    page = open_page(write_report([tmp_path / "runs"], tmp_path / "out", SETTINGS).page)
    pointed_at(page, "r0")
    last = pd.read_csv(folder / "metrics.csv").iloc[-1]
    told = float(re.search(r"epoch 39, accuracy ([\d.]+)%", page.inner_text("#hover"))[1])
    known = [100 * last["accuracy/test"], 100 * last["accuracy/train"]]
    assert min(abs(told - value) for value in known) < 0.1


def test_bands_colours_and_sorting(open_page, hundred_runs):
    page = open_page(hundred_runs)
    bands = page.locator(".cell .plot").first.locator(".band")
    assert not any(band.is_visible() for band in bands.all())
    choose(page, "curves", "mean ± sd")
    # Train and test, of two data sets, five d, two pixel orders.
    assert [band.is_visible() for band in bands.all()] == [True] * 40
    assert visible_runs(page)["c0"] == []
    pointed_at(page, "e0")
    assert "mean of seeds 0, 1, 2, 3, 4" in page.inner_text("#hover")
    choose(page, "colour", "d")
    assert page.locator(".legend").first.locator("span").all_inner_texts() == [f"d = {d}" for d in (2, 6, 10, 18, 30)]
    colour = "mark => getComputedStyle(document.querySelector(`.data path.${mark}`)).getPropertyValue('--run')"
    assert len({page.evaluate(colour, f"r{run}") for run in range(100)}) == 5
    page.click("#runs th:has-text('best test accuracy')")
    page.click("#runs th:has-text('best test accuracy')")
    shown = [float(text.rstrip("%")) for text in page.locator("#runs td:nth-child(8)").all_inner_texts()]
    assert len(shown) == 100
    assert shown == sorted(shown, reverse=True)
    # A reload keeps what was chosen.
    page.reload()
    wait(page)
    scroll_through(page)
    assert [band.is_visible() for band in bands.all()] == [True] * 40


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_filters_and_sorting_work_by_keyboard_and_focus_stays(open_page, hundred_runs, key):
    page = open_page(hundred_runs)
    focused = "[document.activeElement.textContent, document.activeElement.ariaPressed]"
    page.locator("nav fieldset:has(legend:text-is('data set')) button:text-is('MNIST')").focus()
    page.keyboard.press(key)
    assert page.inner_text(".tile b") == "50 of 100"
    assert page.evaluate(focused) == ["MNIST", "true"]
    page.reload()
    wait(page)
    assert page.evaluate(focused) == ["MNIST", "true"]
    head = page.locator("#runs th:has-text('best test accuracy')")
    head.locator("button").focus()
    page.keyboard.press(key)
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(focused)[0] == "best test accuracy"


def test_on_a_phone_filters_are_folded_and_charts_stand_below_one_another(open_page, hundred_runs):
    page = open_page(hundred_runs)
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    wait(page)
    buttons = page.locator("nav button")
    assert not buttons.first.is_visible()
    page.click("summary")
    assert buttons.first.is_visible()
    choose(page, "d", "18")
    page.click("summary")
    assert page.inner_text("summary") == "Filters: d = 18"
    assert len({box.bounding_box()["x"] for box in page.locator(".curves .plot").all()}) == 1


def test_printed_tables_are_whole_and_no_word_of_them_is_cut(open_page, hundred_runs):
    page = open_page(hundred_runs)
    page.set_viewport_size({"width": 1000, "height": 700})
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    for table in page.locator(".table").all():
        assert table.evaluate("box => box.scrollHeight <= box.clientHeight && box.scrollWidth <= box.clientWidth")
    assert page.evaluate("[...document.querySelectorAll('td')].every(cell => cell.scrollWidth <= cell.clientWidth)")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(open_page, hundred_runs, width):
    page = open_page(hundred_runs)
    page.set_viewport_size({"width": width, "height": 900})
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_words_and_curves_are_light_on_a_dark_page(open_page, hundred_runs):
    page = open_page(hundred_runs)

    def brightness(selector, name):
        colour = f"getComputedStyle(document.querySelector('{selector}')).{name}"
        drawn = (
            "colour => { const c = new OffscreenCanvas(1, 1).getContext('2d'); c.fillStyle = colour;"
            " c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3) }"
        )
        return sum(page.evaluate(drawn, page.evaluate(colour))) / (3 * 255)

    assert brightness(".card", "backgroundColor") > 0.9
    assert brightness(".plot text", "fill") < 0.3
    page.emulate_media(color_scheme="dark")
    assert brightness(".card", "backgroundColor") < 0.2
    assert brightness(".plot text", "fill") > 0.7
    choose(page, "colour", "d")
    assert min(brightness(f".data path.r{run}", "stroke") for run in range(0, 100, 7)) > 0.4


def test_a_page_of_damaged_runs_is_quiet_too(open_page, tmp_path):
    write_run(tmp_path / "one", epochs=1)
    write_run(tmp_path / "<b>&'\"", data="<i>$x$", seed=1, epochs=2, num_classes=3)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/metrics.csv").write_text("epoch,other\n-1,1\n0,2\n")
    page = open_page(write_report([tmp_path], tmp_path / "out", SETTINGS).page)
    scroll_through(page)
    assert page.locator("#left-out li").count() >= 5
    assert "profile/level_0" in page.inner_text("main")
    assert page.locator("#runs tbody tr").count() == 3
    # Somebody else's text stays text: in buttons, tables, and over charts.
    assert page.get_by_role("button", name="<i>$x$", exact=True).count() == 1
    assert page.locator(".plot text:text('<i>$x$')").count() >= 1
    assert page.locator("main i:not(.legend i)").count() == 0


SHAPES = {"svg", "g", "path", "defs", "use", "rect", "clipPath"}
TEXT = "{http://www.w3.org/2000/svg}text"


def figure_with(title, x=(0, 1), y=(0, 1), **look):
    with mpl.rc_context(PAGE_STYLE):
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.plot(x, y, gid="r7", **look)
        axes.set_title(wrapped(title, 10.0))
    return figure


@pytest.mark.parametrize(
    "title",
    [
        "</svg><script>alert(1)</script>",
        'style="font: 8px serif',
        '<g id="a"> <!-- b --> <style>*{}</style>',
        r"$\frac{1}{0}$ and $ alone",
        "&amp; &lt; \" '",
        "{{ script }} %(x)s \\1",
    ],
)
def test_words_stay_words(title):
    # In a page, HTML's parser knows both names.
    names = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    drawn = ElementTree.fromstring(chart_of(figure_with(title)).svg.replace("<svg", names, 1))
    assert title in ["".join(text.itertext()).strip() for text in drawn.iter(TEXT)]
    assert {element.tag.rpartition("}")[2] for element in drawn.iter()} <= SHAPES | {"text"}


def test_a_marked_curve_is_a_path_of_its_own_with_all_its_finite_points():
    x, y = np.arange(50.0), np.sin(np.arange(50.0))
    y[10] = np.nan
    chart = chart_of(figure_with("", x, y, linestyle="--", marker="o"))
    assert chart.marks == {"r7"}
    line, dots = (re.search(rf'class="r7 {kind}" d="([^"]*)"', chart.svg)[1] for kind in ("dashed", "dots"))
    assert len(re.findall(r"-?\d+", line)) == 2 * 49
    assert dots.count("h0") == 49
    width, height = map(float, re.search(r'class="data".*?viewBox="0 0 (\d+) (\d+)"', chart.svg).groups())
    low, high = map(float, re.search(r'data-y="(\S+) (\S+) linear"', chart.svg).groups())
    steps = np.array(re.findall(r"-?\d+", line), dtype=float).reshape(-1, 2).cumsum(axis=0)
    assert low + (high - low) * (1 - steps[:, 1] / height) == pytest.approx(y[np.isfinite(y)], abs=0.002)
    assert width > 0


def test_the_same_figure_gives_the_same_text_and_names_no_address():
    first, second = (chart_of(figure_with("a")).svg for _ in range(2))
    assert first == second
    assert "http" not in first
