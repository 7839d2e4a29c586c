"""docs/reference/build-folder.md holds every file and every key that a build leaves, with its type, and no other."""

from __future__ import annotations

import ast
import csv
import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import cattrs
import onnx
import pytest

from edge.accuracy.table import StepName
from edge.board import compare, infer, transfer
from edge.board.parse import PerfRun
from edge.cli import board
from edge.compiler.logs import StaticPerf
from edge.files import write_json
from edge.folder.built import open_built
from edge.measure import scores
from edge.pipeline import manifest
from edge.report.compare import compare as compare_builds
from edge.report.compare import documents as compared
from edge.report.gather import gather
from edge.report.page import documents
from tests import trained_net
from tests.build_folder_page import COMMAND, MARK, PAGE, Schema, classes, generated, meanings
from tests.conftest import Run
from tests.report_build import make_build, with_sidecars
from tests.test_tune_report import result

REGENERATE = os.environ.get("EDGE_REGENERATE_DOCS") == "1"


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(PAGE.read_text(encoding="utf-8"))


def test_the_page_is_what_the_classes_say() -> None:
    hand, mark, written = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark
    if REGENERATE:
        written = f"\n{generated()}"
        PAGE.write_text(hand + mark + written, encoding="utf-8")
    assert written.strip() == generated().strip(), COMMAND


def test_every_field_says_what_it_means() -> None:
    fields = [(kind, name, meaning) for kind in classes() for name, (_, meaning) in meanings(kind).items()]
    assert [f"{kind.__name__}.{name}" for kind, name, meaning in fields if not meaning] == []


def written_keys(module: ModuleType, *functions: str) -> Iterator[str]:
    """Yield the keys of dictionaries in the functions of a module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.FunctionDef) and (node.name in functions or not functions):
            for inside in ast.walk(node):
                keys = inside.keys if isinstance(inside, ast.Dict) else ()
                if isinstance(inside, ast.Call) and getattr(inside.func, "id", "") == "_refined":
                    keys = inside.args
                    yield from (str(word.arg) for word in inside.keywords)
                yield from (key.value for key in keys if isinstance(key, ast.Constant))


# The version of onnxruntime, and what edge board perf --json alone prints.
NOT_IN_IT = {"onnxruntime", "published", "recorded", "run"}


def test_the_manifests_table_has_the_keys_that_the_code_writes(schema: Schema) -> None:
    written = {
        *written_keys(manifest),
        *manifest._LEARNED,
        *written_keys(scores, "score_record"),
        *written_keys(compare, "record"),
        *written_keys(infer, "perf_record"),
        *written_keys(board, "perf_command", "eval_command", "_keep"),
        *written_keys(transfer, "_write"),
        *(field.name for kind in (StaticPerf, PerfRun, infer.PerfMeasurement) for field in attrs.fields(kind)),
    }
    told = {word for row in schema.tables["manifest.json"] for word in row.replace("[]", "").split(".")}
    assert told == written - NOT_IN_IT


def test_the_table_of_files_has_every_role(schema: Schema) -> None:
    source = inspect.getsource(manifest)
    roles = {
        *re.findall(r'_artifact\("(\w+)"', source),
        *re.findall(r'\("[\w.]+", "(\w+)"\)', inspect.getsource(manifest._role)),
        *manifest.TEXT_ROLES.values(),
        *manifest._SHIPPED.values(),
    }
    assert {role for row in schema.tables["Files"].values() for role in re.findall(r"\w+", row[0])} == roles


def faults(schema: Schema, folder: Path) -> list[str]:
    """Return what the JSON of a build folder holds otherwise than the page says."""
    documents = {name: name for name in schema.tables if name.endswith(".json")} | {"build_eval.json": "eval.json"}
    there = {folder / name: document for name, document in documents.items() if (folder / name).exists()}
    return [fault for path, told in there.items() for fault in schema.faults(told, json.loads(path.read_text()))]


def test_fabricated_builds_hold_what_the_page_says(schema: Schema, tmp_path: Path) -> None:
    for name, labelled, vendor in (("a", True, True), ("b", False, True), ("c", True, False)):
        folder = make_build(tmp_path / name, labelled=labelled, vendor=vendor, board=vendor, verified=labelled)
        if vendor:
            built = with_sidecars(folder, labelled=labelled)
            write_json(folder / "tune.json", cattrs.unstructure(result(built.sha256["float_onnx"])))
        (folder / "report.json").write_text(documents(gather(open_built(folder)))["report.json"])
        assert faults(schema, folder) == []
    both = compared(compare_builds(open_built(tmp_path / "a"), open_built(tmp_path / "b")))
    (tmp_path / "comparison.json").write_text(both["comparison.json"])
    assert faults(schema, tmp_path) == []


def files_named(schema: Schema) -> dict[str, str]:
    """Return pattern of a file's name -> the roles of its row."""
    rows = PAGE.read_text(encoding="utf-8").split("| file |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [row.split("|")[1:3] for row in rows]
    return {
        re.escape(name).replace("NAME", "my").replace("SIZE", "64x64").replace(r"\*", ".*"): roles
        for names, roles in cells
        for name in re.findall(r"`([^`]+)`", names)
    }


@pytest.mark.parametrize("compiler", ["onnxruntime", pytest.param("managed", marks=pytest.mark.compiler)])
def test_a_build_holds_what_the_page_says(
    edge: Run, request: pytest.FixtureRequest, schema: Schema, tmp_path: Path, compiler: str
) -> None:
    if compiler == "managed":
        request.getfixturevalue("toolchain")
    onnx.save(trained_net.network(trained_net.train()), tmp_path / "my.onnx")
    trained_net.save_images(tmp_path / "train", 24, seed=1)
    trained_net.save_images(tmp_path / "val", 24, seed=2)
    given = ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--compiler", compiler, "--level", "O0")
    for words in (
        ("build", "my.onnx", *given, "--images", "val", "--calib", "train", "--calib-count", "20"),
        ("eval", "my", "--images", "val"),
        ("diagnose", "my", "--images", "val"),
        ("report", "my"),
    ):
        code, _, err = edge(*words)
        assert code == 0, err
    folder = tmp_path / "build" / "my"
    names = {path.name for path in folder.iterdir()}
    assert {"manifest.json", "build_eval.json", "eval.json", "diagnosis.json", "report.json"} <= names
    assert faults(schema, folder) == []
    patterns = files_named(schema)
    for name in names:
        assert [pattern for pattern in patterns if re.fullmatch(pattern, name)], name
    for file in json.loads((folder / "manifest.json").read_text())["artifacts"]:
        roles = [roles for pattern, roles in patterns.items() if re.fullmatch(pattern, file["path"])]
        assert any(f"`{file['role']}`" in role for role in roles), file
    columns = next(csv.reader((folder / "answers.csv").open()))
    told = {name for row in schema.tables["answers.csv"] for name in re.findall(r"\w+", row)}
    assert set(columns) <= told == {"image", "label", *StepName.__args__}


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"nmae": "x"}, "manifest.json: nmae is not on the page"),
        ({"accuracy": {"nv12": {"top2": 1.0}}}, "accuracy.float.top2 is not on the page"),
        ({"stages": [{"name": "x", "speed": 1}]}, "stages[].speed is not on the page"),
        ({"weights": {"colour": 1}}, "Weights: colour is not on the page"),
        ({"n": 1, "model": 1}, "model is 1, not text"),
        ({"board": {"perf": {"runs": [{"fps": None}]}}}, "fps is None, not number"),
        ({"scores": "logit"}, "scores is 'logit', not `logits`"),
        ({"accuracy": {"float": {"top1_interval": [1.0]}}}, "top1_interval is [1.0], not [number, number]"),
        ({"verify": {"bit_exact": 1}}, "bit_exact is 1, not true or false"),
    ],
)
def test_a_key_or_a_type_that_the_page_lacks_is_a_fault(schema: Schema, data: dict[str, object], fault: str) -> None:
    assert fault in "\n".join(schema.faults("manifest.json", data))
