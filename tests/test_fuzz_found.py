"""Faults that fuzzing found, each as the smallest input that shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from edge.errors import BackendError, LabelError, ModelFileError, SpecError, WorkspaceError
from edge.folder.built import open_built
from edge.folder.store import Store
from edge.folder.workspace import Workspace
from edge.graph.files import load_onnx
from edge.images.calibrate import load_set
from edge.images.find import open_images
from edge.progress import Silent
from edge.report.gather import gather
from edge.runtime import load
from edge.specs.load import load_precision, read_model
from tests.conftest import Run, save_images, save_net
from tests.fabricated import NAMES, make_build, save_photo
from tests.report_build import make_build as make_reported

BUILD = ("net.onnx", "--mean", "0", "--std", "1", "--resize", "64", "--compiler", "onnxruntime")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build" / "ConvNeXt_atto")


@pytest.mark.parametrize(("key", "shown"), [("1", "1"), ("null", "None"), ("2020-01-01", "datetime.date(2020, 1, 1)")])
def test_a_key_that_yaml_takes_for_another_type(tmp_path: Path, key: str, shown: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\nnodes:\n  {key}: {{on: CPU}}\n")
    with pytest.raises(SpecError, match="is not text") as error:
        load_precision(str(path))
    assert f"the key {shown} is not text" in str(error.value)
    path.write_text(f"name: r\nnodes:\n  '{key}': {{on: CPU}}\n")
    assert list(load_precision(str(path)).nodes) == [key]


def test_a_yaml_that_is_none_says_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    for content in (b"\xff\xfe", b"a: [", b"a: 1\na: 2\n", b"[" * 5000):
        path.write_bytes(content)
        with pytest.raises(SpecError, match="can't be read") as error:
            read_model(str(path))
        assert error.value.expected == "YAML in UTF-8: a mapping of keys, each given once"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("imges: x\n", "unknown 'imges'"),
        ("- a\n", "it holds list"),
        ("1: 2\n", "unknown 1"),
        ("n: 4\n", "it names no images"),
    ],
)
def test_a_calibration_set_with_a_wrong_key(tmp_path: Path, text: str, seen: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_set(str(path))
    assert seen in error.value.seen


def test_an_input_of_a_type_that_onnx_does_not_know(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx", dtype=99)
    code, _, err = edge("export", "net.onnx", "--mean", "0", "--std", "1", "--resize", "64")
    assert code == 1
    assert "net.onnx: input 'x' is of a type that ONNX does not know\nexpected: a float32 input" in err


def test_a_cell_of_labels_without_end(tmp_path: Path) -> None:
    save_images(tmp_path / "imgs", 1)
    (tmp_path / "imgs" / "labels.csv").write_text(f"filename,class_index\n{'x' * 200_000},1\n")
    with pytest.raises(LabelError, match=r"labels\.csv is no CSV: field larger") as error:
        open_images(tmp_path / "imgs")
    assert error.value.expected == "filename,class_index on each line"


def test_a_manifest_with_another_type(edge: Run, tmp_path: Path) -> None:
    build = make_reported(tmp_path / "build" / "ConvNeXt_atto")
    manifest = json.loads((build / "manifest.json").read_text())
    for key in ("name", "command", "weights", "stages"):
        for value in ([1], {}, 1e308, None, "x"):
            if type(value) is type(manifest[key]):
                continue
            (build / "manifest.json").write_text(json.dumps({**manifest, key: value}))
            code, _, err = edge("report", str(build))
            assert code in (0, 1)
            assert code == 0 or "expected: manifest.json and the other .json files of a build by this edge" in err
    (build / "manifest.json").write_text(json.dumps({**manifest, "weights": [1]}))
    with pytest.raises(ModelFileError, match="not as edge writes it"):
        gather(open_built(build))


@pytest.mark.parametrize("place", ["answers", "answers/a.sqlite", "answers/a.sqlite-journal"])
def test_a_store_s_link_leads_nowhere(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root" / "answers").mkdir(parents=True)
    link = tmp_path / "root" / place
    if link.is_dir():
        link.rmdir()
    link.symlink_to(outside if place == "answers" else outside / "file")
    with pytest.raises(WorkspaceError, match="is a link") as error:
        Store(tmp_path / "root", "answers/a.sqlite", lambda _: None)
    assert error.value.remedy == f"rm {link}"
    assert list(outside.iterdir()) == []


def test_a_lock_s_link_leads_nowhere(edge: Run, tmp_path: Path) -> None:
    build = make_reported(tmp_path / "build" / "ConvNeXt_atto")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (build / ".edge-workspace").write_text("{}")
    (build / ".lock").unlink(missing_ok=True)
    (build / ".lock").symlink_to(precious)
    with pytest.raises(WorkspaceError, match="is a link"), Workspace(build, Silent()):
        pass
    code, _, err = edge("report", str(build))
    assert code == 1
    assert f"next: rm {build / '.lock'}" in err
    assert precious.read_text() == "mine"


def test_a_portable_model_without_outputs(build: Path) -> None:
    path = next(build.glob("*_portable_int8.onnx"))
    model = onnx.load(path)
    del model.graph.output[:]
    alone = build.parent / path.name
    onnx.save(model, alone)
    with pytest.raises(BackendError) as error:
        load(alone, "portable")
    assert error.value.remedy == "edge build MODEL"


def test_options_that_change_nothing_are_told(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    save_images(tmp_path / "imgs", 4)
    given = ("--calib", "imgs", "--level", "O0", "--timeout", "5", "--images", "demo", "--count", "4")
    code, _, err = edge("build", *BUILD, *given, "--label-offset", "1")
    assert code == 0
    assert "! onnxruntime quantizes to plain int8 and does not use --level, --timeout\n" in err
    assert "! --label-offset changes nothing: the demo's images keep their labels\n" in err
    code, out, err = edge("build", *BUILD, *given, "--precision", "int8_split")
    assert code == 0
    assert "does not use --precision, --level, --timeout\n" in err
    assert "precision" not in out
    assert json.loads((tmp_path / "build/net/manifest.json").read_text())["precision"] is None
    report = json.loads(edge("report", "net", "--json")[1])
    assert report["precision"] == ""
    shutil.rmtree(tmp_path / "build")
    code, _, err = edge("build", *BUILD, "--calib", "imgs", "--images", "imgs", "--label-offset", "1")
    assert "does not use" not in err
    assert "changes nothing" not in err


def test_class_names_beside_the_demo_s_weights_are_told(edge: Run, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a\nb\n")
    arguments = (
        "ConvNeXt_atto",
        "--weights",
        "demo",
        "--compiler",
        "onnxruntime",
        "--count",
        "4",
        "--calib-count",
        "4",
    )
    code, _, err = edge("build", *arguments, "--labels", "two.txt")
    assert code == 0, err
    assert "! the class names two.txt are not used: the demo's weights have classes of their own\n" in err


def test_class_names_do_nothing_to_the_terminal(edge: Run, build: Path, tmp_path: Path) -> None:
    count = len(NAMES)
    (tmp_path / "names.txt").write_text("\n".join(f"\x1b[31m{n}\0" for n in range(count)))
    save_photo(tmp_path / "photo.png")
    code, out, _ = edge("run", "ConvNeXt_atto", "photo.png", "--backend", "portable", "--labels", "names.txt")
    assert code == 0
    assert r"\x1b[31m1\x00" in out
    assert not {"\x1b", "\0"} & set(out)


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_told(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Cast", ["w"], ["y"], to=1)
    wrong = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT16, dims=(3, 4), raw_data=bytes(48))
    output = onnx.helper.make_tensor_value_info("y", 1, (3, 4))
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [wrong]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match="48 bytes, its shape says 24"):
        load_onnx(tmp_path / "net.onnx")


def test_a_manifest_whose_part_is_no_object_can_not_be_read(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "net")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"accuracy": "none"}))
    with pytest.raises(ModelFileError, match="can't be read"):
        open_built(folder)
