"""docs/reference/build-folder.md holds every key of every file that a build leaves, and no other."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests import trained_net
from tests.build_folder_page import DOCUMENTS, classes, meanings, page
from tests.conftest import Run
from tests.report_build import make_build, with_sidecars

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "build-folder.md"
REGENERATE = os.environ.get("EDGE_REGENERATE_DOCS") == "1"


def test_the_page_is_what_the_code_says() -> None:
    text = page()
    if REGENERATE:
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "EDGE_REGENERATE_DOCS=1 pytest tests/test_build_folder_page.py"


GENERIC = {"schema_version"}


def test_every_field_says_what_it_means() -> None:
    silent = [
        f"{kind.__name__}.{name}"
        for kind in classes()
        for name, (_, meaning) in meanings(kind).items()
        if not meaning and name not in GENERIC
    ]
    assert silent == []


def told(section: str) -> set[str]:
    """Return the keys that the table of a section names."""
    text = PAGE.read_text(encoding="utf-8")
    body = re.split(r"^## ", text.split(f"\n## {section}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("made")
    made = with_sidecars(make_build(folder / "net", board=True))
    return [json.loads((made.folder / "manifest.json").read_text())]


def test_a_build_holds_what_the_page_tells(edge: Run, tmp_path: Path, manifests: list[dict[str, Any]]) -> None:
    onnx.save(trained_net.network(trained_net.train()), tmp_path / "my.onnx")
    trained_net.save_images(tmp_path / "train", 24, seed=1)
    trained_net.save_images(tmp_path / "val", 24, seed=2)
    options = ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--compiler", "onnxruntime")
    code, _, err = edge("build", "my.onnx", *options, "--images", "val", "--calib", "train", "--calib-count", "20")
    assert code == 0, err
    for verb in ("eval", "diagnose"):
        code, _, err = edge(verb, "my", "--images", "val")
        assert code == 0, err
    build = tmp_path / "build" / "my"
    manifests = [*manifests, json.loads((build / "manifest.json").read_text())]
    assert {key for manifest in manifests for key in manifest} <= told("manifest.json")
    assert told("manifest.json") <= {key for manifest in manifests for key in manifest} | {"board"} | OFTEN_ABSENT
    for name, (kind, _) in DOCUMENTS.items():
        if (build / name).exists():
            found = set(json.loads((build / name).read_text()))
            assert found <= told(name) == set(meanings(kind))
    files = told("Files")
    for path in build.iterdir():
        pattern = (
            path.name.replace("my_64x64", "NAME_SIZE").replace("my", "NAME", 1) if "my" in path.name else path.name
        )
        assert any(re.fullmatch(re.escape(name).replace(r"\*", ".*").replace("/", ""), pattern) for name in files) or (
            path.name in (".lock", ".edge-workspace")
        ), path.name


# Keys that the two manifests need not have.
OFTEN_ABSENT = {"output", "scores", "rewrites", "equalization", "rounding", "attention", "patches", "pools", "exporter"}
