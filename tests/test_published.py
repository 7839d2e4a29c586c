"""What others published of a model, in every report: compared where it may be, and not where it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.report.wording import published_line
from edge.specs import Published, load_model
from tests.conftest import Run, save_images, save_net


@pytest.mark.parametrize(
    ("model", "weights", "says", "silent"),
    [
        ("ConvNeXt_tiny", "timm", ["Top-1 82.03 %", "Top-5 95.9 %", "PaddleClas"], ["int8", "Not comp"]),
        ("ConvNeXt_atto", "vendor", ["Top-1 73.25 %", "Top-1 int8 69.75 %"], ["Top-5", "Not comp"]),
        ("ConvNeXt_atto", "demo", ["Not comparable with the demo weights"], []),
        ("CSPDarkNet53", "timm", ["Not comparable", "PaddleClas' own training"], []),
        ("CSPDarkNet53", "random", ["Not comparable with the random weights"], ["own training"]),
    ],
)
def test_the_sentence(model: str, weights: str, says: list[str], silent: list[str]) -> None:
    line = published_line(model, load_model(model).published, weights)
    assert all(words in line for words in says)
    assert not any(words in line for words in silent)


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert published_line("x", None, "timm") == ""
    assert published_line("x", Published("me", params_m=3.0), "timm") == ""


def test_reports_hold_it(tmp_path: Path, edge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_net(tmp_path / "mine.onnx")
    (tmp_path / "Mine.yaml").write_text(
        "sources: {onnx: mine.onnx}\n"
        "preprocess: {crop: [64, 64], resize: 64, mean: [0, 0, 0], std: [1, 1, 1]}\n"
        "published: {source: the makers, float_top1: 81.25}\n"
    )
    monkeypatch.setenv("EDGE_ZOO", str(tmp_path))
    images = str(save_images(tmp_path / "images", 20))
    code, _, err = edge("build", "Mine", "--compiler", "onnxruntime", "--calib", images, "--images", images)
    assert code == 0, err
    for name in ("report.md", "report.html", "report.json"):
        text = (tmp_path / "build/Mine" / name).read_text()
        assert "Published for Mine: Top-1 81.25 %" in text, name
