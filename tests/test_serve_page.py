"""The page of ``edge serve`` in a real browser: an uploaded image, a camera, and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.runtime import Net, load
from tests.conftest import Run, wait_for
from tests.fabricated import make_build, save_photo
from tests.serving import serving
from tests.test_detector_build import build, save_image
from tests.test_report_browser import DESK, PHONE

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

STEPS = ["wait for a free thread", "decode", "resize, crop", "NV12", "run", "post"]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with load(make_build(tmp_path / "ConvNeXt_atto"), "portable") as opened:
        yield opened


class Look:
    """A page that is open, and all that it asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": DESK} | options))
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"http://{address}/")

    def steps(self) -> list[str]:
        self.page.wait_for_selector("#times tr")
        return self.page.locator("#times th").all_inner_texts()

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_an_uploaded_image_shows_its_classes_and_times(
    browser: Any, net: Net, tmp_path: Path, size: dict[str, int], scheme: str
) -> None:
    photo = save_photo(tmp_path / "photo.jpg", 4)
    with (
        serving(("ConvNeXt_atto", net)) as served,
        Look(browser, served.http, viewport=size, color_scheme=scheme) as seen,
    ):
        page = seen.page
        assert page.inner_text("h1") == "ConvNeXt_atto"
        page.set_input_files("#file", str(photo))
        assert seen.steps()[:6] == STEPS
        rows = page.locator("#answer li").all_inner_texts()
        assert [re.split(r"\n+", row) for row in rows] == [
            [label, f"{100 * p:.1f} %"] for label, p in net.classify(photo)
        ]
        assert page.evaluate("[document.querySelector('#view').width, document.querySelector('#view').height]") == [
            160,
            120,
        ]
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert seen.complaints == []
        assert all(url.startswith((f"http://{served.http}/", "data:", "blob:")) for url in seen.asked)


def test_a_camera_is_answered_frame_by_frame(browser: Any, net: Net) -> None:
    with serving(("ConvNeXt_atto", net), threads=2) as served, Look(browser, served.http) as seen:
        page = seen.page
        page.evaluate(FAKE_CAMERA)
        page.click("#camera")
        assert seen.steps()[:6] == STEPS
        page.wait_for_function("document.querySelector('#rate').textContent.includes('images a second')")
        assert page.inner_text("#camera") == "Stop the camera"
        page.click("#camera")
        count = len(seen.asked)
        page.wait_for_timeout(500)
        assert len(seen.asked) <= count + 2
        assert page.inner_text("#camera") == "Start the camera"
        assert page.inner_text("#problem") == ""


# A camera that this browser has not: a canvas that moves.
FAKE_CAMERA = """() => { navigator.mediaDevices.getUserMedia = async () => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    canvas.width = 320; canvas.height = 240;
    setInterval(() => { pen.fillStyle = `hsl(${Date.now() % 360} 80% 50%)`; pen.fillRect(0, 0, 320, 240); }, 20);
    return canvas.captureStream(30);
} }"""


PIXEL = "([x, y]) => [...document.querySelector('#view').getContext('2d').getImageData(x, y, 1, 1).data]"


def test_boxes_are_drawn_where_the_objects_are(browser: Any, edge: Run, tmp_path: Path) -> None:
    folder, image = build(edge, tmp_path), save_image(tmp_path / "one.png")
    with (
        load(folder, "portable") as net,
        load(make_build(tmp_path / "ConvNeXt_atto"), "portable") as other,
        serving(("ConvNeXt_atto", other), ("detector", net)) as served,
        Look(browser, served.http) as seen,
    ):
        found = net.detect(image)
        page = seen.page
        page.select_option("#model", "detector")
        page.set_input_files("#file", str(image))
        seen.steps()
        rows = page.locator("#answer li").all_inner_texts()
        assert len(rows) == len(found) > 0
        assert rows[0].startswith("red")
        left, top, right, bottom = found.boxes[0]
        side = page.evaluate(
            "([x, y]) => [...document.querySelector('#view').getContext('2d').getImageData(x, y, 1, 1).data]",
            [round(float(right)), round(float(top + bottom) / 2)],
        )
        away = page.evaluate(
            "([x, y]) => [...document.querySelector('#view').getContext('2d').getImageData(x, y, 1, 1).data]",
            [120, 120],
        )
        assert left < right
        assert sum(side[:3]) > 30
        assert away[:3] == [0, 0, 0]


def test_what_goes_wrong_is_said(browser: Any, net: Net, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no image")
    with serving(("<b>&\"'", net)) as served, Look(browser, served.http) as seen:
        page = seen.page
        assert page.inner_text("h1") == "<b>&\"'"
        page.set_input_files("#file", str(tmp_path / "no.jpg"))
        assert wait_for(lambda: page.inner_text("#problem") == "no.jpg is no image that this browser shows")
        page.evaluate(
            "() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error('Permission denied') } }"
        )
        page.click("#camera")
        assert wait_for(lambda: page.inner_text("#problem") == "The camera can't be used: Permission denied")
        page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
        page.click("#camera")
        assert wait_for(lambda: "ssh -L" in page.inner_text("#problem"))
        served.stop()
        assert wait_for(served.ended)
        page.set_input_files("#file", str(save_photo(tmp_path / "photo.jpg")))
        assert wait_for(lambda: "Failed to fetch" in page.inner_text("#problem"))
