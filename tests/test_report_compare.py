"""Two builds side by side: what differs, and tests on the same images where there are the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edge.accuracy.table import Evaluation
from edge.errors import LabelError
from edge.folder.built import Built, open_built
from edge.report.compare import Comparison, compare, documents, paired, read_answers
from edge.report.gather import evaluation_of
from tests.conftest import Run
from tests.report_build import NAMES, STEPS, YAML, make_build, with_sidecars, write_answers

OTHER_YAML = YAML.replace("default", "max") + "model_parameters: {node_info: {/stem/Conv: {OutputType: int16}}}\n"


@pytest.fixture
def one(tmp_path: Path) -> Built:
    return with_sidecars(make_build(tmp_path / "a" / "ConvNeXt_atto"), seed=1)


@pytest.fixture
def two(tmp_path: Path) -> Built:
    """The same network with another recipe: twelve more right, slower."""
    folder = make_build(
        tmp_path / "b" / "ConvNeXt_atto", precision="int16-norms", salt="b", recipe=OTHER_YAML, board=True
    )
    content = json.loads((folder / "manifest.json").read_text())
    content["static"] |= {"latency_us": 1410.2, "fps": 709.1}
    (folder / "manifest.json").write_text(json.dumps(content))
    built = with_sidecars(folder, seed=2)
    return change_right(built, "quantized", 465)


def change_right(built: Built, step: str, right: int) -> Built:
    path = built.folder / "eval.json"
    content = json.loads(path.read_text())
    entry = next(entry for entry in content["steps"] if entry["name"] == step)
    entry["score"]["top1_right"] = right
    path.write_text(json.dumps(content))
    counts = {name: count for name, _, count, *_ in STEPS} | {step: right}
    write_answers(built.folder, counts, seed=2)
    return built


def evaluated(built: Built) -> Evaluation:
    found, _ = evaluation_of(built)
    assert found is not None
    return found


def texts(found: Comparison) -> dict[str, str]:
    return documents(found)


def test_the_programs_are_compared_on_the_same_images(one: Built, two: Built) -> None:
    found = compare(one, two)
    programs = found.paired[0]
    assert programs.title == "the programs"
    assert (programs.n, programs.a_right, programs.b_right) == (500, 453, 465)
    change = programs.change
    assert change is not None
    assert change.lost is not None
    assert change.gained is not None
    assert change.gained - change.lost == 12
    assert change.points == pytest.approx(2.4)
    assert change.p == pytest.approx(binomtest(change.lost, change.lost + change.gained).pvalue)
    assert change.interval is not None
    assert change.interval[0] < 2.4 < change.interval[1]
    assert "B is right on 93.0 % of the same 500 images, A on 90.6 %: +2.4 points" in found.verdict
    assert "B is slower by the compiler's figure: 1.41 ms a frame against 1.23 ms (+14.5 %)" in found.verdict
    sampled = next(row for row in found.paired if row.title == "compiled program")
    assert sampled.n == 20


def test_what_differs_is_told_and_what_is_the_same_counted(one: Built, two: Built) -> None:
    found = compare(one, two)
    facts = {row.name: row for row in found.facts}
    assert (facts["precision recipe"].a, facts["precision recipe"].b) == ("int8", "int16-norms")
    assert facts["static latency"].change == "+14.5 %"
    assert not facts["weights"].differs
    assert facts["on the board, 4 threads: frames a second"].b == "768.4 FPS"
    assert {row.name: (row.a, row.b) for row in found.recipe} == {
        "calibration_parameters.calibration_type": ("default", "max"),
        "model_parameters.node_info./stem/Conv.OutputType": ("\N{EN DASH}", "int16"),
    }
    assert found.recipe_same == 2
    assert len(found.layers) == 37
    assert found.layers[0].change == found.layers[0].b.cosine - found.layers[0].a.cosine


def test_a_build_against_itself_differs_in_nothing(one: Built) -> None:
    found = compare(one, one)
    assert "right and wrong on the same images as A, all 500" in found.verdict
    assert not any(row.differs for row in found.facts)
    assert found.recipe == ()
    assert all(row.same == row.n for row in found.paired)
    assert "No layer moved." in texts(found)["comparison.html"]


def test_different_images_are_not_paired(one: Built, two: Built) -> None:
    path = two.folder / "eval.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset_sha256": "1" * 64}))
    found = compare(one, two)
    assert found.paired == ()
    assert "different images" in found.why_unpaired
    assert "can't" not in found.verdict
    assert "not compared image by image" in found.verdict
    for text in (texts(found)["comparison.html"], texts(found)["comparison.md"]):
        assert "cannot be paired" in text


def test_a_build_without_an_evaluation_names_the_command(one: Built, two: Built) -> None:
    (two.folder / "eval.json").unlink()
    found = compare(one, two)
    assert found.paired == ()
    assert f"edge eval {two.folder}" in found.why_unpaired
    assert f"edge eval {one.folder}" not in found.why_unpaired


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("image,label\n"),
        lambda path: path.write_text(path.read_text().replace(",3,3", ",3,4", 1)),
        lambda path: path.write_text("\n".join(path.read_text().splitlines()[:-1])),
        lambda path: path.write_text(path.read_text().replace(",3,3", ",3,three", 1)),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["gone", "no columns", "another answer", "an image less", "no number", "no text"],
)
def test_answers_that_are_not_the_evaluations_are_not_used(one: Built, two: Built, spoil: object) -> None:
    spoil(two.folder / "answers.csv")  # type: ignore[operator]
    with pytest.raises(LabelError, match=r"answers.csv can't be used") as error:
        read_answers(two, evaluated(two))
    assert error.value.remedy == f"edge eval {two.folder.name}"
    found = compare(one, two)
    assert found.paired == ()
    assert "answers.csv can't be used" in found.why_unpaired


def test_without_labels_the_answers_are_compared(tmp_path: Path) -> None:
    built = [
        with_sidecars(make_build(tmp_path / name / "net", labelled=False), labelled=False, seed=seed)
        for seed, name in enumerate("ab")
    ]
    found = compare(*built)
    assert found.paired[0].change is None
    assert "give the same answer on" in found.verdict
    assert "change of Top-1" not in texts(found)["comparison.html"]


def test_layers_of_a_diagnosis_and_of_a_log_are_not_mixed(one: Built, two: Built) -> None:
    (two.folder / "diagnosis.json").unlink()
    found = compare(one, two)
    assert found.layers == ()
    assert f"edge diagnose {two.folder}" in found.layers_note
    (one.folder / "diagnosis.json").unlink()
    assert len(compare(one, two).layers) == 6


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(0, 5),
)
def test_pairing_counts_only_what_both_answered(rows: list[tuple[int, int, int]], missing: int) -> None:
    labels: dict[str, int | None] = {str(index): label for index, (label, _, _) in enumerate(rows)}
    a = {str(index): answer for index, (_, answer, _) in enumerate(rows)}
    b = {str(index): answer for index, (_, _, answer) in enumerate(rows) if index >= missing}
    found = paired("x", a, b, labels)
    both = rows[missing:]
    assert found.n == len(both)
    assert found.same == sum(one == two for _, one, two in both)
    if both:
        assert found.change is not None
        assert found.a_right == sum(label == one for label, one, _ in both)
        assert found.b_right == sum(label == two for label, _, two in both)
        assert found.change.points == pytest.approx(100 * (found.b_right - found.a_right) / len(both))
    else:
        assert found.change is None


def test_the_command_writes_page_text_and_data(edge: Run, one: Built, two: Built, tmp_path: Path) -> None:
    code, out, err = edge("report", str(one.folder), str(two.folder))
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == ["report  comparison.html", "        comparison.md", "        comparison.json"]
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["schema_version"] == 1
    assert data["paired"][0]["change"]["points"] == pytest.approx(2.4)
    assert data["layers"][0]["a"]["cosine"] < 1
    page = (tmp_path / "comparison.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    code, out, _ = edge("report", str(one.folder), str(two.folder), "--out", "x/y.html")
    assert code == 1
    (tmp_path / "x").mkdir()
    assert edge("report", str(one.folder), str(two.folder), "--out", "x/y.html", "--json")[0] == 0
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["y.html", "y.json", "y.md"]


def test_text_of_others_is_no_markup(edge: Run, one: Built, two: Built, tmp_path: Path) -> None:
    content = json.loads((one.folder / "manifest.json").read_text())
    content |= {"name": NAMES[-1], "precision": "<img src=x>"}
    (one.folder / "manifest.json").write_text(json.dumps(content))
    page = texts(compare(open_built(one.folder), two))["comparison.html"]
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
