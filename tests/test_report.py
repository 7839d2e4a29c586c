"""The report of a build: what it says, what it leaves out, and that it is written whole."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import cattrs
import cv2
import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from edge.accuracy import write_evaluation
from edge.accuracy.table import Change, ChangedImage
from edge.errors import ModelFileError, WorkspaceError
from edge.folder.built import Built, open_built
from edge.images import ImageItem
from edge.images.demo import draw
from edge.images.preprocess import nv12_to_yuv444, resize_crop, rgb_to_nv12, yuv444_to_rgb_float
from edge.report import write as writing
from edge.report.charts import Bar, Canvas, Row, bars, depth, depths, dots, module_of, percent_axis, split, waterfall
from edge.report.contents import LayerRow, Report
from edge.report.gather import gather, judged_change
from edge.report.page import documents
from edge.report.thumbnails import behind_nv12
from edge.report.wording import MINUS, p_value, signed, size
from edge.report.write import write_into
from edge.specs import Preprocess
from tests.conftest import Run
from tests.report_build import HASH, NAMES, diagnosis, evaluation, make_build, with_sidecars

VOID = {"meta", "link", "img", "br", "wbr", "input"}


class Page(HTMLParser):
    """The elements of a page, and whether they are nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "ConvNeXt_atto")


def told(folder: Path) -> tuple[Report, Page, dict[str, str]]:
    found = gather(open_built(folder))
    texts = documents(found)
    return found, Page(texts["report.html"]), texts


def words(page: Page) -> str:
    return re.sub(r"\s+", " ", "".join(page.text))


# --- what it says


def test_everything_that_is_known_is_on_the_page_in_markdown_and_in_data(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "ConvNeXt_atto", board=True)
    with_sidecars(folder)
    found, page, texts = told(folder)
    data = json.loads(texts["report.json"])
    text = words(page)
    assert found.flags == (found.flags[0],)  # demo weights
    for fact in (
        "demo weights",
        "90.60",  # Top-1 of the quantized step
        MINUS + "2.20",  # what calibration costs
        "a loss, p = 0.013",
        "within noise, p = 0.15",
        "Calibration costs 2.2 points",
        "Give the LayerNorm of stages.2.blocks.5 int16 inputs.",
        "98.40",  # agreement with only the weights quantized
        "swapped channels",
        "inside the network",
        "1.23",  # static latency
        "732.10",  # published FPS
        "768.40",  # FPS of the board
        "measured on the board",
        "equals the quantized model bit for bit",
        "hb_mapper makertbin",
        "207.0",
        "RDK OS 3.5.0",
    ):
        assert fact in text, fact
        if fact not in ("within noise, p = 0.15", "207.0", "RDK OS 3.5.0"):
            assert fact.split(",")[0] in texts["report.md"], fact
    assert data["schema_version"] == 1
    assert data["accuracy"]["steps"][0]["top1"] == pytest.approx(94.4)
    assert data["diagnosis"]["remedies"][0]["gain"] == 2.4
    assert data["accuracy"]["total"]["points"] == -3.8
    assert data["verdict"] == found.verdict
    for file in found.files:
        assert file["sha256"][:32] in text.replace(" ", "")


def test_the_page_is_one_file_with_a_name_for_every_image_and_chart(build: Path) -> None:
    with_sidecars(build)
    _, page, texts = told(build)
    html = texts["report.html"]
    assert "http" not in html.replace("http-equiv", "")
    assert page.every("script") == []
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.every("img"))
    assert all(image["alt"] for image in page.every("img"))
    assert [link["href"] for link in page.every("link")] == ["data:,"]
    charts = [svg for svg in page.every("svg") if svg.get("role") == "img"]
    assert len(charts) >= 8  # four, each for desk and phone
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    for chart in charts:
        assert {chart["aria-labelledby"], chart["aria-describedby"]} <= set(identities)
    for anchor in page.every("a"):
        assert (anchor["href"] or "").removeprefix("#") in identities
    assert all(head["scope"] in ("col", "row") for head in page.every("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_text_of_others_is_no_markup(build: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), draw("test", 3)[0])
    with_sidecars(build, images=tmp_path / "x.png")
    content = json.loads((build / "manifest.json").read_text())
    content["command"] = "edge build '<img src=x onerror=alert(1)>' & \"y\""
    content["weights"]["tag"] = "</style><script>alert(2)</script>"
    (build / "manifest.json").write_text(json.dumps(content))
    found = json.loads((build / "diagnosis.json").read_text())
    found["units"][0]["name"] = "</title><script>alert(3)</script>"
    found["units"][0]["cosine"] = 0.1
    (build / "diagnosis.json").write_text(json.dumps(found))
    _, page, texts = told(build)
    assert page.every("script") == []
    assert not [tag for tag in page.every("img") if "onerror" in tag]
    text = words(page)
    for typed in (NAMES[-1], "<b>.png", "<img src=x onerror=alert(1)>", "</title><script>alert(3)</script>"):
        assert typed in text or any(typed in (tag["alt"] or "") for tag in page.every("img"))
    assert not re.search(r"(?<!\\)<(script|img|/style|/title|b)\b", re.sub(r"`[^`]*`", "", texts["report.md"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "demo"}, "demo weights"),
        ({"weights": "random"}, "random weights"),
        ({"vendor": False}, "portable"),
        ({"verified": False}, "not verified"),
    ],
    ids=["demo", "random", "portable", "unverified"],
)
def test_what_a_reader_must_know_first_comes_first(tmp_path: Path, options: dict[str, object], said: str) -> None:
    found, page, texts = told(make_build(tmp_path / "net", **options))  # type: ignore[arg-type]
    assert said in [flag.title for flag in found.flags]
    assert words(page).index(said) < words(page).index("Accuracy, step by step")
    assert f"**{said}**" in texts["report.md"]
    if options.get("weights") == "random":
        assert "Top-1" not in found.verdict


def test_without_labels_agreement_is_the_figure(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "net", labelled=False)
    found, page, _ = told(folder)
    assert found.accuracy.steps[-1].top1 is None
    assert "the same answer as float behind NV12 on 93.0 % of 500 images" in found.verdict
    with_sidecars(folder, labelled=False)
    found, page, texts = told(folder)
    assert "Agreement with float (behind NV12, up to that step on RGB)" in words(page)
    assert "No Top-1: a folder without labels" in words(page)
    assert "Images with another answer than float's" in words(page)
    assert "change of Top-1" not in words(page) + texts["report.md"]


def test_a_build_alone_says_what_would_tell_more(build: Path) -> None:
    _, page, _ = told(build)
    text = words(page)
    for command in ("edge eval ConvNeXt_atto", "edge diagnose ConvNeXt_atto", "edge board perf"):
        assert command in text
    assert "not tested in pairs" in text


def test_a_changed_answer_without_a_net_change_is_no_silence() -> None:
    def judge(points: float, interval: tuple[float, float], p: float) -> str:
        return judged_change(Change(points, interval, 9, 7, p), "float").judgement

    assert judge(-2.0, (-3.4, -0.6), 0.01) == "loss"
    assert judge(2.0, (0.6, 3.4), 0.01) == "gain"
    assert judge(-2.0, (-4.1, 0.1), 0.06) == "noise"
    assert judge(-2.0, (-3.4, -0.6), 0.06) == "noise"


# --- what it leaves out


@pytest.mark.parametrize("name", ["eval.json", "diagnosis.json"])
def test_results_of_other_files_are_left_out_and_named(build: Path, name: str) -> None:
    with_sidecars(build)
    path = build / name
    content = json.loads(path.read_text())
    content["models"]["quantized_onnx"] = HASH
    path.write_text(json.dumps(content))
    found, page, texts = told(build)
    flag = next(flag for flag in found.flags if flag.kind == "stale")
    verb = "eval" if name == "eval.json" else "diagnose"
    assert flag.command == f"edge {verb} ConvNeXt_atto"
    assert "another quantized_onnx" in flag.text
    assert f"{name} is left out" in words(page)
    assert f"{name} is left out" in texts["report.md"]
    assert (found.diagnosis is None) == (name == "diagnosis.json")
    assert (found.accuracy.source == "manifest.json") == (name == "eval.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "models": {}}', "null"])
def test_a_broken_result_is_told_and_no_error(build: Path, text: str) -> None:
    (build / "eval.json").write_text(text)
    found = gather(open_built(build))
    assert [flag.title for flag in found.flags if flag.kind == "stale"] == ["eval.json is left out"]
    assert found.accuracy.source == "manifest.json"


def test_results_that_name_no_file_are_not_believed(build: Path) -> None:
    built = with_sidecars(build)
    content = cattrs.unstructure(evolve(evaluation(built), models={}))
    (build / "eval.json").write_text(json.dumps(content))
    assert gather(built).accuracy.source == "manifest.json"


def test_a_manifest_without_what_a_report_needs_is_one_clear_error(build: Path) -> None:
    content = json.loads((build / "manifest.json").read_text())
    del content["accuracy"]
    (build / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="not as edge writes it") as error:
        gather(open_built(build))
    assert error.value.remedy == "edge build ConvNeXt_atto"


def test_missing_logs_and_calibration_files_are_told(build: Path) -> None:
    content = json.loads((build / "manifest.json").read_text())
    roles = ("compile_log", "calibration_record", "mapper_yaml", "labels")
    content["artifacts"] = [entry for entry in content["artifacts"] if entry["role"] not in roles]
    (build / "manifest.json").write_text(json.dumps(content))
    (build / "labels.txt").unlink()
    found, page, _ = told(build)
    assert found.layers.rows == ()
    assert "only the vendor's compiler measures it" in words(page)
    assert "calibration.json can't be read" in words(page)


# --- layers


def test_layers_come_from_the_compile_log_until_there_is_a_diagnosis(build: Path) -> None:
    found = gather(open_built(build))
    assert found.layers.source == "compile log"
    assert [layer.dtype for layer in found.layers.rows] == ["int8", "int8", "int16", "float", "int8", "float"]
    assert [layer.cosine for _, layer in found.layers.worst(2)] == [0.970563, 0.970563]
    assert found.placement is not None
    assert [(node["op"], node["inside"]) for node in found.placement["nodes"]] == [
        ("Softmax", True),
        ("Reshape", False),
    ]
    built = with_sidecars(build)
    found = gather(built)
    assert found.layers.source == "diagnosis"
    assert len(found.layers.rows) == len(diagnosis(built).units)
    alone = [layer.alone_cosine for _, layer in found.layers.worst(99)]
    assert None not in alone
    assert alone == sorted(alone)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/stages/stages.2/blocks/blocks.5/norm/Sub", "stages.2"),
        ("stages.2.blocks.5.norm", "stages.2"),
        ("/stem/stem.0/Conv", "stem"),
        ("stem.0", "stem"),
        ("/head/fc/Gemm", "head"),
        ("head.fc", "head"),
        ("Conv_12", "Conv_12"),
        ("", ""),
    ],
)
def test_the_part_of_a_network_that_a_layer_belongs_to(name: str, module: str) -> None:
    assert module_of(name) == module


# --- images


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@given(st.integers(0, 2**32 - 1))
def test_images_are_shown_as_the_network_sees_them(seed: int) -> None:
    crop = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    seen = yuv444_to_rgb_float(nv12_to_yuv444(rgb_to_nv12(crop), (4, 6)))
    assert np.abs(behind_nv12(crop) - np.clip(seen, 0, 255)).max() <= 0.5


@pytest.mark.parametrize(("color", "layout"), [("rgb", "NCHW"), ("bgr", "NCHW"), ("rgb", "NHWC"), ("bgr", "NHWC")])
def test_calibration_images_have_their_own_colours(tmp_path: Path, color: str, layout: str) -> None:
    found = gather(open_built(make_build(tmp_path / "net", color=color, layout=layout)))
    shown = found.calibration.images
    assert len(shown) == 24
    assert shown[0].name == "calibration/000000"
    crop = cv2.resize(draw("calibration", 0)[0], (64, 64), interpolation=cv2.INTER_AREA)
    difference = np.abs(decoded(shown[0].image).astype(int) - behind_nv12(crop))
    assert difference.mean() < 12  # JPEG; swapped channels give more than 20
    assert np.abs(decoded(shown[0].image).astype(int) - behind_nv12(crop)[..., ::-1]).mean() > 20


def test_a_calibration_file_of_another_size_is_told(build: Path) -> None:
    (build / "calibration_data_rgb_f32" / "0000.bin").write_bytes(b"1234")
    (build / "calibration_data_rgb_f32" / "0001.bin").unlink()
    found, page, _ = told(build)
    assert "0000.bin holds 1 value" in found.calibration.images[0].why_not
    assert "No such file" in found.calibration.images[1].why_not
    assert "gone: 0001.bin can't be read" in words(page)


def test_mistakes_show_the_image_or_say_that_it_has_gone(build: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), draw("test", 7)[0][..., ::-1])
    with_sidecars(build, images=tmp_path / "x.png")
    found, page, texts = told(build)
    gone, file, rendered, *_ = found.accuracy.mistakes
    assert gone.image.image == ""
    assert "gone/cat.jpg can't be read" in gone.image.why_not
    assert "gone: gone/cat.jpg can't be read" in words(page)
    rule = Preprocess(crop=(64, 64), resize=72)
    for shown, index in ((file, 7), (rendered, 0)):
        expected = behind_nv12(resize_crop(ImageItem("", demo=("test", index, 0)).load(), rule))
        assert np.abs(decoded(shown.image.image).astype(int) - expected).mean() < 6
    assert (gone.label, gone.answer) == (NAMES[-1], NAMES[0])
    assert "base64" not in texts["report.json"]
    assert json.loads(texts["report.json"])["accuracy"]["mistakes"][0]["image"]["name"] == "gone/cat.jpg"


def test_boxes_of_float_and_program_stand_side_by_side(build: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.full((300, 960, 3), 128, np.uint8))
    kept, lost, gained = (
        (4.0, 4.0, 90.0, 90.0, 0.8, 0),
        (200.0, 100.0, 400.0, 200.0, 0.7, 1),
        (600.0, 9, 800.0, 90, 0.6, 2),
    )
    changed = [
        ChangedImage("<b>.png", str(tmp_path / "x.png"), (kept, lost), (gained, kept), (1,), (0,)),
        ChangedImage("gone.png", str(tmp_path / "y.png"), (lost,), (), (0,), ()),
    ]
    built = with_sidecars(build)
    write_evaluation(build / "eval.json", evolve(evaluation(built), task="detect", changed=tuple(changed * 5)))
    found, page, texts = told(build)
    first, second, *others = found.accuracy.changed
    assert len(others) == 4  # the page stays small
    assert (first.lost, first.gained) == ((f"{NAMES[1]} 0.70",), (f"{NAMES[2]} 0.60",))
    like, program = decoded(first.like.image).astype(int), decoded(first.program.image).astype(int)
    assert like.shape == program.shape == (150, 480, 3)
    drawn = np.abs(like - program).max(axis=2) > 60
    assert drawn[50:100, 98:102].any()  # float's, in colour
    assert drawn[5:45, 298:302].any()  # the program's
    assert not drawn[:48, :48].any()  # both have it
    assert np.abs(like[10:40, 44:46] - 128).max() > 20
    assert "gone.png can't be read" in second.like.why_not
    assert "Images whose boxes changed most" in words(page)
    assert f"lost: {NAMES[1]} 0.70" in words(page)
    assert "base64" not in texts["report.json"]
    assert "Images whose boxes changed most" in texts["report.md"]


# --- charts


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.find("title") is not None
    assert root.find("desc") is not None
    assert "nan" not in svg
    return root


DESK = Canvas("c", 760, "a title", "a <description>")
PHONE = Canvas("c", 340, "a title", "a <description>")


@pytest.mark.parametrize("canvas", [DESK, PHONE], ids=["desk", "phone"])
def test_charts_are_well_formed_at_their_ends(canvas: Canvas, build: Path) -> None:
    steps = gather(with_sidecars(build)).accuracy.steps
    assert len(parsed(waterfall(steps, canvas)).findall("g")) == len(steps)
    parsed(waterfall(steps[:1], canvas))
    parsed(dots([Row("<a>", 100.0, (100.0, 100.0), None, "plain", "100 %")], canvas))
    parsed(bars([Bar("zero", 0.0, "0 ms"), Bar("one", 1.0, "1 ms")], canvas))
    for counts in ((0, 0), (1, 0), (0, 1), (158, 1)):
        parsed(split(*counts, canvas))
    layers = [
        LayerRow(f"stages.{i}.x", "conv", "CPU" if i == 1 else "BPU", "int16" if i == 2 else "int8", cosine)
        for i, cosine in enumerate((1.0, -1.0, 0.5, 0.999999, 1.0000001))
    ]
    parsed(depth(layers, [1, 2], canvas))
    parsed(depth(layers[:1], [0], canvas))
    parsed(depths(layers, layers[::-1], canvas))


def test_a_loss_is_drawn_from_the_step_before_to_the_step(build: Path) -> None:
    steps = gather(with_sidecars(build)).accuracy.steps
    root = parsed(waterfall(steps, DESK))
    calibrated = root.findall("g")[3]
    bar, dot = calibrated.find("rect"), calibrated.find("circle")
    before = root.findall("g")[2].find("circle")
    assert bar is not None
    assert dot is not None
    assert before is not None
    assert bar.get("class") == "step loss"
    assert float(bar.get("x", "")) == pytest.approx(float(dot.get("cx", "")), abs=0.02)
    end = float(bar.get("x", "")) + float(bar.get("width", ""))
    assert end == pytest.approx(float(before.get("cx", "")), abs=0.02)


def test_a_figure_of_few_images_does_not_squeeze_the_others() -> None:
    many = [Row(str(value), value, (value - 2, value + 2), None, "plain", "") for value in (90.0, 91.0)]
    few = Row("few", 60.0, (31.0, 83.0), 61.0, "noise", "60 %", "10 images", hollow=True)
    root = parsed(dots([*many, few], DESK))
    assert root.findtext("text") == "88 %"
    drawn = root.findall("g")[2]
    assert drawn.find("circle") is None
    assert "60 %" in [text.text for text in drawn.findall("text")]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9), st.integers(3, 5))
def test_an_axis_covers_its_values_with_few_round_steps(values: list[float], most: int) -> None:
    low, high, ticks = percent_axis(values, most)
    assert 0 <= low <= min(values)
    assert max(values) <= high <= 100
    assert low < high
    assert ticks[0] == low
    assert ticks[-1] == pytest.approx(high)
    assert 2 <= len(ticks) <= most + 3


def test_numbers_as_one_reads_them() -> None:
    assert [signed(value) for value in (0.0, -0.001, 1.5, -2.0)] == ["0.00", "0.00", "+1.50", MINUS + "2.00"]
    assert [p_value(value) for value in (1e-9, 0.0123, 0.5)] == ["p < 0.001", "p = 0.012", "p = 0.50"]
    assert [size(count) for count in (8, 4_327_588, 999_999, 53_059_776)] == ["8 B", "4.33 MB", "1 MB", "53.1 MB"]


# --- how it is written


def listed(folder: Path) -> dict[str, dict[str, object]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return {entry["role"]: entry for entry in manifest["artifacts"]}


def test_the_manifest_lists_what_was_written(edge: Run, build: Path) -> None:
    before = set(listed(build))
    code, out, err = edge("report", str(build))
    assert (code, err) == (0, "")
    assert "ConvNeXt_atto_demo: Compiled for the RDK X5" in out
    assert str(build / "report.html") in out
    found = listed(build)
    assert set(found) - before == {"report", "report_html", "report_json"}
    for role in ("report", "report_html", "report_json"):
        data = (build / str(found[role]["path"])).read_bytes()
        assert found[role]["bytes"] == len(data)
        assert found[role]["sha256"] == hashlib.sha256(data).hexdigest()
    first = {path: path.stat().st_mtime_ns for path in build.glob("report.*")}
    manifest = (build / "manifest.json").read_bytes()
    assert edge("report", str(build))[0] == 0
    assert {path: path.stat().st_mtime_ns for path in build.glob("report.*")} == first
    assert (build / "manifest.json").read_bytes() == manifest
    with_sidecars(build)
    assert edge("report", str(build))[0] == 0
    assert open_built(build).sha256["report_html"] != found["report_html"]["sha256"]


@pytest.mark.parametrize("after", range(4))
def test_a_report_that_is_cut_off_spoils_nothing(
    build: Path, monkeypatch: pytest.MonkeyPatch, after: int, edge: Run
) -> None:
    edge("report", str(build))
    built: Built = with_sidecars(build)
    texts = documents(gather(built))
    write, count = writing.write_text, 0

    def dying(path: Path, text: str) -> None:
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        write(path, text)

    monkeypatch.setattr(writing, "write_text", dying)
    if after < 3:
        with pytest.raises(KeyboardInterrupt):
            write_into(built, texts)
    else:
        write_into(built, texts)
    monkeypatch.undo()
    assert open_built(build)  # checks the size of every listed file
    assert edge("report", str(build))[0] == 0
    assert "report_html" in listed(build)


def test_a_report_of_an_earlier_build_is_not_put_into_a_later_one(build: Path) -> None:
    built = open_built(build)
    content = json.loads((build / "manifest.json").read_text())
    content["artifacts"][0]["sha256"] = HASH
    (build / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(WorkspaceError, match="built anew meanwhile"):
        write_into(built, documents(gather(built)))
    assert not (build / "report.html").exists()


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (make_build(tmp_path / name / "net") for name in ("a", "b"))
    assert documents(gather(with_sidecars(one))) == documents(gather(with_sidecars(two)))


def test_elsewhere_the_build_stays_as_it_is(edge: Run, build: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in build.iterdir())
    code, out, _ = edge("report", str(build), "--out", "page.html")
    assert code == 0
    assert out.splitlines()[-3:] == ["report  page.html", "        page.md", "        page.json"]
    assert all((tmp_path / f"page.{ending}").is_file() for ending in ("html", "md", "json"))
    assert sorted(path.name for path in build.iterdir()) == before


def test_json_is_the_report(edge: Run, build: Path) -> None:
    code, out, _ = edge("report", str(build), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((build / "report.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("ConvNeXt_atto",), 1, "next: edge build ConvNeXt_atto"),
        (("nowhere/net",), 1, "nowhere/net does not exist"),
        (("empty",), 1, "empty holds no manifest.json"),
        (("some.bin",), 1, "some.bin is a single file"),
        (("net", "--out", "page.pdf"), 2, "a name ending in .html"),
        (("net", "--out", "no/such/page.html"), 1, "next: mkdir -p no/such"),
        (("net", "empty"), 1, "empty holds no manifest.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_can_not_be_reported_is_one_clear_error(
    edge: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    make_build(tmp_path / "net")
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.bin").write_bytes(b"x")
    status, out, err = edge("report", *arguments)
    assert (status, out) == (code, "")
    assert says in err
    assert not list(tmp_path.glob("*.html"))


def test_what_a_recipe_changed_of_the_float_network_is_told(build: Path) -> None:
    plain = documents(gather(open_built(build)))
    assert all("before the compiler" not in text for text in plain.values())
    path = build / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {
        "attention": {"pools": ["p"], "scales": ["s", "t"], "keys": []},
        "patches": ["/proj/Conv"],
        "pools": ["/pool", "/pool_1"],
        "rewrites": {"nodes": {"channel_mean": ["a", "b"]}, "max_abs_error": 1e-7},
        "equalization": {"pairs": [{}], "images": 16, "max_abs_error": 0.0},
        "range_split": {"places": [{}, {}], "images": 64, "max_abs_error": 0.0},
        "rounding": {"layers": 7, "left": [], "images": 32, "error_kept": 0.4321},
    }
    path.write_text(json.dumps(manifest))
    told = (
        "attention laid out for the BPU: 3 nodes written another way",
        "average pools exact at the edge: 2 nodes written another way",
        "patches cut in two steps: 1 convolution written another way",
        "channel_mean: 2 nodes written another way",
        "channels of 1 pair of layers equalized on 16 calibration images",
        "channels at 2 places grouped by range on 64 calibration images",
        "weights of 7 layers rounded on 32 calibration images: 43 % of the nearest steps' error is left",
    )
    texts = documents(gather(open_built(build)))
    for line in told:
        assert f"- before the compiler: {line}" in texts["report.md"]
    assert "; ".join(told) in "".join(Page(texts["report.html"]).text)
    assert json.loads(texts["report.json"])["prepared"] == list(told)
