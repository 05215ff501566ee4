"""The report as a reader meets it: in headless Chromium, with mouse, keyboard, paper.

Every page that a test opens is watched: at its end, no message may stand in the console
and nothing but the file itself may have been asked for.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

REQUIRED = bool(os.environ.get("NOISESTEPS_REQUIRE_CHROMIUM"))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = (1280, 800), (360, 740)
OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"

if REQUIRED:
    import axe_playwright_python.sync_playwright as axe
    import playwright.sync_api as sync_api
else:
    reason = "needs playwright and axe-playwright-python, of the dev extra"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason)


@pytest.fixture(scope="module")
def browser():
    """Start the system's Chromium once; without one the tests skip, but not in CI."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and REQUIRED:
        pytest.fail("NOISESTEPS_REQUIRE_CHROMIUM is set, but no Chromium is on PATH")
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def visit(browser, mini_report):
    """Return a context manager that opens the report and watches it."""

    @contextmanager
    def opened(size=DESKTOP, watched=True, **options):
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, **options
        )
        context.set_default_timeout(120_000)  # milliseconds; machines are shared
        page = context.new_page()
        messages: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(mini_report.as_uri())
        yield page
        asked = [url for url in requests if not url.startswith("data:")]
        context.close()
        if watched:
            assert messages == []
            assert asked == [mini_report.as_uri()]

    return opened


@pytest.fixture
def page(visit):
    with visit() as opened:
        yield opened


def column(page, table: str, heading: str):
    """Return a table's headings and those of its rows that a column shows."""
    place = page.locator(f"[aria-labelledby='{table}'] table")
    words = place.locator("thead th").all_inner_texts()
    index = [word.split("\n")[0].strip() for word in words].index(heading)
    cells = place.locator(f"tbody td:nth-child({index + 1})")
    return place.locator("thead th").nth(index), cells


def test_a_click_sorts_numbers_by_value(page):
    page.evaluate(OPEN_ALL)
    head, cells = column(page, "dissertation-4-3", "dissertation's time")
    written = cells.all_inner_texts()
    assert written[0] == "8 min 20 s"
    head.get_by_role("button").click()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert cells.all_inner_texts() == written[::-1]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert cells.all_inner_texts() == written


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_key_sorts_and_what_is_missing_stays_last(page, key):
    page.evaluate(OPEN_ALL)
    head, cells = column(page, "table-fid", "dissertation's FID")
    button = head.get_by_role("button")
    button.focus()
    for order, known in (
        ("ascending", ["133.6", "314.5", "369.9", "464.3"]),
        ("descending", ["464.3", "369.9", "314.5", "133.6"]),
    ):
        page.keyboard.press(key)
        assert head.get_attribute("aria-sort") == order
        texts = cells.all_inner_texts()
        assert texts[:4] == known
        assert set(texts[4:]) == {"–"}


def test_one_column_at_a_time_is_sorted(page):
    words, _ = column(page, "costs-by-stage", "stage")
    numbers, cells = column(page, "costs-by-stage", "jobs")
    words.get_by_role("button").click()
    numbers.get_by_role("button").click()
    assert words.get_attribute("aria-sort") is None
    counts = [int(text) for text in cells.all_inner_texts()]
    assert counts == sorted(counts)


def test_a_figure_opens_and_closes_by_keyboard(page):
    opener = page.locator("figure .open").first
    dialog = page.locator("dialog")
    assert not dialog.is_visible()
    opener.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    image = dialog.locator("img")
    sizes = image.evaluate(
        "async image => { await image.decode(); "
        "return [image.width, image.naturalWidth] }"
    )
    assert sizes[0] == sizes[1]
    assert image.get_attribute("alt")
    page.keyboard.press("+")
    assert image.evaluate("image => image.width") == pytest.approx(1.5 * sizes[0], 0.01)
    title = page.locator("#viewer-title")
    assert title.inner_text().startswith("Figure 1.")
    page.keyboard.press("n")
    assert title.inner_text().startswith("Figure 2.")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opener.evaluate("button => button === document.activeElement")


def test_a_figure_opens_by_a_click_and_can_be_saved(page, mini_report):
    figure = page.locator("figure").nth(3)
    figure.locator("img").click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save", exact=True).click()
    name = f"{figure.get_attribute('id')}.png"
    assert saved.value.suggested_filename == name
    drawn = mini_report.parent / "figures" / name
    assert Path(saved.value.path()).read_bytes() == drawn.read_bytes()
    page.mouse.click(3, 3)  # beside the dialog
    assert not page.locator("dialog").is_visible()


def test_a_command_is_copied(visit):
    with visit(permissions=["clipboard-read", "clipboard-write"]) as page:
        box = page.locator("#rerun").locator("xpath=..").locator(".command").first
        box.get_by_role("button", name="Copy").click()
        box.get_by_role("button", name="Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == "snakemake --configfile config/mini.yaml"
        assert page.get_by_role("status").inner_text() == "Copied"


def test_a_phone_scrolls_tables_and_not_the_page(visit):
    with visit(PHONE) as page:
        page.evaluate(OPEN_ALL)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        inside = page.locator(".scroll").evaluate_all(
            "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).length"
        )
        assert inside > 0
        # A chart is 7.2 inches wide, its smallest print 7 points: shown at 7 pixels.
        widths = page.locator("figure img").evaluate_all(
            "images => images.map(image => image.clientWidth)"
        )
        assert min(widths) > 7.2 * 72
        page.locator("figure .open").first.click()
        right = page.get_by_role("button", name="Close", exact=True).bounding_box()
        assert right["x"] + right["width"] <= PHONE[0]


@pytest.mark.parametrize(("scheme", "size"), [("light", DESKTOP), ("dark", PHONE)])
def test_everyone_can_read_it(visit, scheme, size):
    """axe-core finds nothing: contrast, names, headings, landmarks, focus and more."""
    with visit(size, color_scheme=scheme) as page:
        page.evaluate(OPEN_ALL)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.locator("figure .open").first.click()
        found = axe.Axe().run(page, context="dialog")
        assert found.violations_count == 0, found.generate_report()


def test_dark_pages_keep_their_figures_on_white(visit):
    with visit(color_scheme="dark") as page:
        style = "element => getComputedStyle(element).backgroundColor"
        assert (
            page.locator("figure .card").first.evaluate(style) == "rgb(255, 255, 255)"
        )
        channels = re.findall(r"\d+", page.locator("body").evaluate(style))
        assert max(map(int, channels)) < 60


def test_every_picture_has_words_of_its_own(page):
    figures = page.locator("figure").evaluate_all(
        "all => all.map(one => [one.querySelector('img').alt, one.innerText])"
    )
    assert page.locator("img").count() == len(figures) > 0
    for alternative, caption in figures:
        assert len(alternative) > 40
        assert alternative not in caption


def test_the_contents_lead_somewhere(page):
    links = page.locator("nav a")
    assert links.count() > 10
    for target in links.evaluate_all("all => all.map(one => one.hash)"):
        assert page.locator(target).count() == 1
    page.keyboard.press("Tab")
    assert "Skip" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"


def test_paper_shows_everything_but_the_controls(visit):
    with visit(color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.locator("figure .open").first.is_hidden()
        assert page.locator("nav").is_hidden()
        folded = page.locator("details:not([open]) tbody tr").last
        assert folded.bounding_box()["height"] > 0
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", paper)) > 5


def test_paper_shows_the_first_rows_of_a_long_table(visit):
    with visit() as page:
        rows = page.locator("#table-scores ~ details tbody tr")
        written, visible = rows.count(), "all => all.filter(r => r.offsetHeight).length"
        assert written > 40
        said = page.get_by_text(f"the first 40 of {written} rows")
        assert said.count() == 1
        page.evaluate(OPEN_ALL)
        assert rows.evaluate_all(visible) == written
        assert said.first.is_hidden()
        page.emulate_media(media="print")
        assert rows.evaluate_all(visible) == 40
        assert said.first.is_visible()


def test_without_scripts_it_can_be_read(visit):
    with visit(java_script_enabled=False) as page:
        assert page.locator("figure img").first.is_visible()
        assert page.locator("#table-fid").is_visible()
        assert page.locator("button:visible").count() == 0
        page.locator("summary").first.click()
        assert page.locator("details[open] pre").first.is_visible()


@pytest.mark.parametrize(
    ("added", "directive"),
    [
        ("new Image().src = 'https://example.invalid/a.png'", "img-src"),
        ("fetch('https://example.invalid/').catch(() => {})", "connect-src"),
        (
            "document.body.append(Object.assign(document.createElement('script'), "
            "{text: 'document.title = 1'}))",
            "script-src-elem",
        ),
    ],
)
def test_the_policy_stops_what_is_not_the_page_s_own(visit, added, directive):
    with visit(watched=False) as page:
        violated = page.evaluate(
            "new Promise(resolve => { document.addEventListener("
            "'securitypolicyviolation', event => resolve(event.effectiveDirective)); "
            f"setTimeout(resolve, 2000, 'nothing'); {added} }})"
        )
        assert violated == directive
        assert page.title() == "noisesteps: mini"
