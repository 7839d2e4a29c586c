"""The pages in a real browser: offline, on a phone, in the dark, on paper and with the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from attrs import frozen

from edge.folder.built import open_built
from edge.images.demo import draw
from edge.report.compare import compare
from edge.report.compare import documents as comparison_documents
from edge.report.gather import gather
from edge.report.page import documents
from tests.conftest import wait_for
from tests.report_build import make_build, with_sidecars

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
KINDS = ("report", "bare", "comparison")


@frozen
class Seen:
    """A page that was opened, and all that it did."""

    page: Any
    requests: list[str]
    complaints: list[str]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    cv2.imwrite(str(folder / "x.png"), draw("test", 5)[0])
    one = with_sidecars(make_build(folder / "a" / "ConvNeXt_atto", board=True), images=folder / "x.png")
    two = with_sidecars(make_build(folder / "b" / "ConvNeXt_atto", precision="int16", salt="b"), seed=6)
    bare = gather(open_built(make_build(folder / "c" / "my_net", labelled=False, weights="file")))
    texts = {
        "report": documents(gather(one))["report.html"],
        "bare": documents(bare)["report.html"],
        "comparison": comparison_documents(compare(one, two))["comparison.html"],
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in texts}


@pytest.fixture
def look(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    contexts = []

    def open_page(kind: str, *, size: dict[str, int] = DESK, scheme: str = "light") -> Seen:
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        seen = Seen(page, [], [])
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.goto(pages[kind].as_uri())
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_by_itself_and_fits_a_phone(
    look: Any, pages: dict[str, Path], kind: str, scheme: str, tmp_path: Path
) -> None:
    for name, size in (("desk", DESK), ("phone", PHONE)):
        seen = look(kind, size=size, scheme=scheme)
        seen.page.screenshot(path=str(tmp_path / f"{kind}-{name}-{scheme}.png"), full_page=True)
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [pages[kind].as_uri()]
        width = seen.page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], f"{width} px at {size['width']}"
        if name == "phone":
            outside = seen.page.evaluate(
                """() => [...document.querySelectorAll("body *")].filter(e =>
                    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll")
                ).map(e => e.outerHTML.slice(0, 80))"""
            )
            assert outside == []


def test_a_page_that_asks_the_network_or_complains_would_be_seen(
    look: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.html"
    text = pages["report"].read_text()
    bad.write_text(text.replace("<main", '<img src="http://127.0.0.1:9/x.png"><p style="width: 900px">x</p><main'))
    seen = look("report", size=PHONE)
    seen.page.goto(bad.as_uri())
    assert any("x.png" in line for line in [*seen.requests, *seen.complaints])
    assert seen.page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_charts_are_there_with_names(look: Any, kind: str, size: dict[str, int]) -> None:
    page = look(kind, size=size).page
    charts = page.locator("svg.chart:visible")
    assert charts.count() >= (2 if kind != "report" else 6)
    for index in range(charts.count()):
        chart = charts.nth(index)
        box = chart.bounding_box()
        assert box["width"] > 250
        assert box["height"] >= 18
        name = page.evaluate("id => document.getElementById(id).textContent", chart.get_attribute("aria-labelledby"))
        assert len(name) > 10
    hidden = page.locator("svg.chart").count() - charts.count()
    assert hidden == charts.count()  # the drawing of the other width
    tree = page.locator("main").aria_snapshot()
    assert tree.count("- img ") >= charts.count()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_paper(look: Any, kind: str, scheme: str) -> None:
    page = look(kind, scheme=scheme).page
    paper = channels(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (sum(paper) < 200) == (scheme == "dark")
    selectors = "h1, p, a, .quiet, .flag b, td, th, dt, dd, summary, code, pre, figcaption, footer, .gone, "
    selectors += ".verdict, .wrong, .loss-text, .gain-text, svg text:not(.badge)"
    colours = page.evaluate(
        """selectors => [...document.querySelectorAll(selectors)].map(e => {
            let under = e;
            const clear = "rgba(0, 0, 0, 0)";
            while (getComputedStyle(under).backgroundColor === clear) under = under.parentElement;
            const style = getComputedStyle(e);
            const ink = e.tagName === "text" ? style.fill : style.color;
            return [e.tagName + "." + (e.className.baseVal ?? e.className), ink,
                    getComputedStyle(under).backgroundColor];
        })""",
        selectors,
    )
    assert len(colours) > 50
    poor = {(name, ink, under) for name, ink, under in colours if contrast(channels(ink), channels(under)) < 4.5}
    assert poor == set()


def test_the_keyboard_alone_reaches_everything(look: Any) -> None:
    page = look("report", size=PHONE).page
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.get_attribute("class") == "skip"
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page = look("report", size=PHONE).page
    reached = []
    for _ in range(200):
        page.keyboard.press("Tab")
        place = page.evaluate(
            """() => {
                const e = document.activeElement;
                if (e === document.body) return null;
                const order = [...document.querySelectorAll("*")].indexOf(e);
                return [order, e.tagName, getComputedStyle(e).outlineStyle, e.matches(".skip")];
            }"""
        )
        if place is None or (reached and place[0] < reached[-1][0]):
            break
        reached.append(place)
    orders = [order for order, *_ in reached]
    assert orders == sorted(set(orders))
    assert all(outline != "none" for _, _, outline, is_skip in reached if not is_skip)
    tags = [tag for _, tag, *_ in reached]
    assert tags.count("A") == 9  # skip link and contents
    assert tags.count("SUMMARY") == 2
    assert tags.count("DIV") == page.locator("div.scroll:visible").count()


CUT = """[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.innerText.slice(0, 40))"""


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_desk_no_table_is_cut_off_even_in_a_wider_font(look: Any, kind: str) -> None:
    page = look(kind).page
    page.add_style_tag(content="body { letter-spacing: .02em }")
    assert page.evaluate(CUT) == []
    page.add_style_tag(content=".page { width: 40rem }")  # and it would be seen
    assert kind == "bare" or page.evaluate(CUT)


def test_a_table_that_is_wider_than_a_phone_scrolls_by_itself(look: Any) -> None:
    page = look("report", size=PHONE).page
    region = page.locator("div.scroll").first
    assert region.get_attribute("role") == "region"
    assert region.evaluate("e => e.scrollWidth > e.clientWidth")
    region.focus()
    page.keyboard.press("ArrowRight")
    assert wait_for(lambda: region.evaluate("e => e.scrollLeft") > 0)


def test_details_open_with_the_keyboard(look: Any) -> None:
    page = look("report").page
    cell = page.locator("details td").first
    assert not cell.is_visible()
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert cell.is_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_on_paper_everything_is_open_and_dark_on_white(look: Any, kind: str, tmp_path: Path) -> None:
    page = look(kind, scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    assert page.locator("details td").first.is_visible()
    assert channels(page.evaluate("getComputedStyle(document.body).backgroundColor")) == (255, 255, 255)
    assert channels(page.evaluate("getComputedStyle(document.body).color")) == (0, 0, 0)
    data = page.pdf(path=str(tmp_path / f"{kind}.pdf"), format="A4", print_background=True)
    assert data.startswith(b"%PDF")
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 690


def channels(colour: str) -> tuple[int, ...]:
    """Return the red, green and blue of a computed colour, 0..255."""
    return tuple(round(float(value)) for value in re.findall(r"[\d.]+", colour)[:3])


def contrast(one: tuple[int, ...], two: tuple[int, ...]) -> float:
    """Return the contrast ratio as WCAG 2 defines it."""
    bright, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: tuple[int, ...]) -> float:
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_computed_as_defined() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
