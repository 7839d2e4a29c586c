"""The precision search in the report: the front, and nothing of a search for other weights."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cattrs
import pytest
from attrs import evolve

from edge import tune as edge_tune
from edge.cli.tune import tune_table
from edge.files import write_json
from edge.folder.built import open_built
from edge.report.charts import Canvas, front
from edge.report.gather import gather
from edge.report.page import markdown, page
from edge.report.search import search_of
from edge.sources.options import Options
from edge.sources.resolve import resolve
from edge.specs import Evidence, Precision, load_precision
from edge.specs.load import precision_text
from edge.specs.schema import Compiler, Rounding
from edge.tune import FILE, Measured, Point, TimeShare, TuneResult
from tests.conftest import Run
from tests.report_build import make_build


def result(float_sha256: str, *, chosen: int | None = 1) -> TuneResult:
    def point(name: str, latency: float, agreement: int, divergence: float) -> Point:
        report = Measured(500, agreement, divergence, right=380, float_right=381, lost=3, gained=2)
        return Point(name, Precision("m"), latency, report, report, bit_exact=True)

    return TuneResult(
        model="m",
        command="edge tune m",
        float_sha256=float_sha256,
        seed=0,
        level="O3",
        cost_level="O1",
        selection="set (500 of 1000)",
        report="set (500 of 1000), kept back",
        unlabelled="",
        max_drop=0.3,
        max_latency_us=789.8,
        min_agreement=None,
        points=(
            point("plain int8", 718.0, 487, 0.012),
            point("max + 1 unit at 16 bits", 718.1, 497, 0.002),
            point("beaten <b>", 740.0, 490, 0.005),
            Point("hung", Precision("m"), failed="stopped at the time limit"),
        ),
        path=(),
        chosen=chosen,
        met=True,
        why="max + 1 unit: the least divergence",
        trials=(),
        time=(TimeShare("ship", 4, 300.0, 1),),
        seconds=900.0,
    )


def written(tmp_path: Path, **changes: str) -> Path:
    folder = make_build(tmp_path / "m")
    digest = changes.get("digest") or open_built(folder).sha256["float_onnx"]
    write_json(folder / FILE, cattrs.unstructure(result(digest)))
    return folder


def test_the_front_is_on_the_page_and_in_markdown(tmp_path: Path) -> None:
    report = gather(open_built(written(tmp_path)))
    assert report.search is not None
    assert [one.on_front for one in report.search.tried] == [True, True, False]
    assert [one.chosen for one in report.search.tried] == [False, True, False]
    shown = page(report)
    assert 'id="search"' in shown
    assert "max + 1 unit at 16 bits (chosen)" in shown
    assert "99.40" in shown
    assert "stopped at the time limit" in shown
    assert "beaten <b>" not in shown
    assert "## Precision search" in markdown(report)


def test_a_search_for_other_weights_is_left_out(tmp_path: Path) -> None:
    folder = written(tmp_path, digest="1" * 64)
    assert search_of(open_built(folder)) is None
    assert "Precision search" not in page(gather(open_built(folder)))


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', '{"schema_version": 9}'])
def test_a_broken_search_is_left_out(tmp_path: Path, text: str) -> None:
    folder = written(tmp_path)
    (folder / FILE).write_text(text)
    assert search_of(open_built(folder)) is None


@pytest.mark.parametrize("width", [340, 720])
def test_the_chart_is_well_formed(tmp_path: Path, width: int) -> None:
    report = gather(open_built(written(tmp_path)))
    assert report.search is not None
    for tried in (report.search.tried, report.search.tried[:1]):
        drawn = front(tried, 789.8, Canvas("f", width, "t", "d"))
        root = ElementTree.fromstring(drawn)
        assert len([one for one in root.iter() if one.tag.endswith("circle")]) == len(tried)


def test_the_table_on_the_screen_says_gain_where_it_is_one() -> None:
    """A Top-1 above float's is no loss of -0.80 points, and no share of answers is removed where there are more."""
    found = result("0" * 64)
    shown = tune_table(found, Path("build/m"), None)
    assert "Top-1, both behind NV12: 0.20 points below float's, within noise (p = 1.00)" in shown
    assert "other answers than float's behind NV12: 13 → 3 of 500, 77 % of them removed" in shown
    best = found.points[1]
    assert best.report is not None
    gained = evolve(best.report, right=385, lost=1, gained=5, agreement=480)
    other = evolve(found, points=(found.points[0], evolve(best, report=gained)))
    shown = tune_table(other, Path("build/m"), None)
    assert "Top-1, both behind NV12: 0.80 points above float's, within noise (p = 0.22)" in shown
    assert "13 → 20 of 500\n" in shown
    assert "-" not in shown.partition("both behind NV12")[2].partition("\n")[0]


def test_where_plain_int8_is_the_answer_no_recipe_is_listed() -> None:
    shown = tune_table(evolve(result("0" * 64, chosen=0), why="plain int8: nothing is better"), Path("build/m"), None)
    assert "plain int8: nothing is better" in shown
    assert "calibration  " not in shown
    assert "other answers" not in shown


def test_a_recipe_found_at_o1_makes_no_later_build_o1(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    o1 = Precision("m", rounding=Rounding(), compiler=Compiler("O1"))
    evidence = Evidence("f" * 64, "a", "b", 10, 99.0, 97.5, level="O1")
    answers = iter(
        evolve(found, points=(found.points[0], evolve(found.points[1], precision=evolve(o1, evidence=evidence))))
        for found in (result("0" * 64), result("0" * 64, chosen=0))
    )
    monkeypatch.setattr(edge_tune, "tune", lambda *_: next(answers))
    arguments = ("tune", "ConvNeXt_atto", "--level", "O1", "--build-dir", "build", "--out", "mine.yaml")
    assert edge(*arguments)[0] == 0
    written = load_precision(str(tmp_path / "mine.yaml"))
    assert written.compiler == Compiler()
    assert written.evidence is not None
    assert written.evidence.level == "O1"
    assert "compiler" not in (tmp_path / "mine.yaml").read_text()
    # Nor does one that an earlier edge found, which kept its level.
    (tmp_path / "old.yaml").write_text(precision_text(evolve(o1, evidence=evolve(evidence, level=None))))
    old = Options(model="ConvNeXt_atto", precision=str(tmp_path / "old.yaml"))
    request, notes = resolve(old)
    assert request.precision.compiler == Compiler()
    assert "--level O1" in notes[-1]
    request, notes = resolve(evolve(old, level="O1"))
    assert (request.precision.compiler, notes) == (Compiler("O1"), ())
    # Plain int8 is the answer now: the recipe of before is not left there without a word.
    code, _, err = edge(*arguments)
    assert (code, "mine.yaml is of an earlier search" in err) == (0, True)
