"""The page in a real browser: what it draws, what filters change, that it is quiet and asks no network."""

import shutil

import pytest
from synthetic import write_run, write_sweep

from qcnn_lightning.report.report import ReportSettings, write_report

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
CHARTS = [
    "accuracy",
    "cost",
    "trend-left-right",
    "trend-up-down",
    "against-train",
    "against-test",
    "classes",
    "profile",
    "entropy-against-d",
    "accuracy-against-parameters",
]
# Of the renderer's own thread, and of the best of three, so that other work on the machine counts less; loading is what
# comes before `load`.
LOADING_S = 2
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
        metrics = measure.send("Performance.getMetrics")["metrics"]
        page.seconds_of_loading = next(entry["value"] for entry in metrics if entry["name"] == "TaskDuration")
        wait(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert noise == []


def is_remote(address):
    return not address.startswith(("file:", "data:", "blob:"))


def wait(page):
    page.wait_for_selector("html[data-drawn=yes]")


def choose(page, name, value):
    page.click(f'button[data-filter="{name}"][data-value="{value}"]')
    wait(page)


def drawn(page):
    """What every chart shows, as text."""
    return page.evaluate(
        "charts => Object.fromEntries(charts.map(id => [id, JSON.stringify((document.getElementById(id).data ?? [])"
        ".map(trace => [trace.x, trace.y, trace.z]))]))",
        CHARTS,
    )


def runs_in(page, chart):
    """The runs whose points a chart holds."""
    return set(
        page.evaluate(
            "id => document.getElementById(id).data.flatMap(trace => trace.customdata ?? []).filter(Number.isInteger)",
            chart,
        )
    )


def test_a_hundred_runs_load_in_two_seconds_and_filters_change_every_chart(open_page, hundred_runs):
    pages = [open_page(hundred_runs) for _ in range(3)]
    page = pages[0]
    assert min(each.seconds_of_loading for each in pages) < LOADING_S
    assert page.locator(".js-plotly-plot").count() == len(CHARTS)
    assert runs_in(page, "accuracy") == runs_in(page, "against-train") == set(range(100))

    everything = drawn(page)
    choose(page, "data.name", "mnist")
    mnist = drawn(page)
    assert [chart for chart in CHARTS if mnist[chart] == everything[chart]] == []
    assert len(runs_in(page, "accuracy")) == 50

    choose(page, "model.d", "18")
    narrower = drawn(page)
    assert [chart for chart in CHARTS if narrower[chart] == mnist[chart]] == []
    choose(page, "seed", "3")
    choose(page, "data.flatten", "up_down")
    assert len(runs_in(page, "against-test")) == 1
    assert page.locator("#runs tbody tr").count() == 1
    assert "No left/right run" in page.inner_text("#trend-left-right")

    choose(page, "data.flatten", "all")
    choose(page, "seed", "all")
    choose(page, "model.d", "all")
    choose(page, "data.name", "all")
    assert drawn(page) == everything


def test_hover_shows_the_run_and_its_command_and_a_click_opens_its_folder(open_page, hundred_runs):
    page = open_page(hundred_runs)
    chart = page.locator("#entropy-against-d")
    chart.scroll_into_view_if_needed()
    point = chart.locator(".scatterlayer .trace .points path").first
    point.hover(force=True)
    label = chart.locator(".hoverlayer .hovertext")
    label.wait_for()
    assert "python -m qcnn_lightning.train data=" in label.text_content()
    with page.context.expect_page() as folder:
        point.click(force=True)
    assert "/runs/data=" in folder.value.url.replace("%3D", "=")
    folder.value.close()


def test_bands_colours_and_sorting(open_page, hundred_runs):
    page = open_page(hundred_runs)
    choose(page, "curves", "mean ± sd")
    bands = "document.getElementById('accuracy').data.filter(trace => trace.fill === 'toself').length"
    # Train and test, of two data sets, five d, two pixel orders.
    assert page.evaluate(bands) == 40
    choose(page, "colour", "d")
    assert page.locator("#accuracy .legendtext").count() == 5
    page.click("#runs th:has-text('best test accuracy')")
    page.click("#runs th:has-text('best test accuracy')")
    shown = [float(text.rstrip("%")) for text in page.locator("#runs td:nth-child(8)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    # A reload keeps what was chosen.
    page.reload()
    wait(page)
    assert page.evaluate(bands) == 40


def test_a_page_of_damaged_runs_is_quiet_too(open_page, tmp_path):
    write_run(tmp_path / "one", epochs=1)
    write_run(tmp_path / "<b>&'\"", data="<i>", seed=1, epochs=2, num_classes=3)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/metrics.csv").write_text("epoch,other\n-1,1\n0,2\n")
    page = open_page(write_report([tmp_path], tmp_path / "out", SETTINGS).page)
    assert page.locator("#left-out li").count() >= 5
    assert "profile/level_0" in page.inner_text("#profile")
    assert page.locator("#runs tbody tr").count() == 3
