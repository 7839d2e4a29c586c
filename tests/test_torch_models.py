"""Any timm model, any TorchScript file: the spec from the source's own words, the export held to torch."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from onnx import helper

from edge.errors import ModelFileError, ToolchainError, ToolchainMissing, UsageError
from edge.images import class_names
from edge.images.find import imagenet
from edge.sources.class_order import against_imagenet, names_in, notes_on_classes
from edge.sources.framework_files import require_torchscript
from edge.sources.resolve import Options, described, resolve
from edge.sources.timm_spec import describe_timm
from edge.specs import ModelSpec, Preprocess, Sources
from edge.toolchain.found import Toolchain
from edge.toolchain.process import Completed
from tests.conftest import Run

RESNET = {
    "known": True, "timm": "1.0.31", "architecture": "resnet18", "tag": "a1_in1k",
    "repository": "timm/resnet18.a1_in1k", "fixed_size": False, "input_size": [3, 224, 224],
    "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center", "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225], "classes": 1000,
}  # fmt: skip


@attrs.define
class Python:
    """The compiler's Python, which answers as timm would."""

    answer: dict[str, Any] = attrs.field(factory=dict)
    text: str | None = None
    returncode: int = 0
    timed_out: bool = False

    def worker_path(self, name: str) -> Path:
        return Path("/somewhere") / name

    def run_python(self, args: list[str], **_: Any) -> Completed:
        text = json.dumps({**RESNET, **self.answer}) if self.text is None else self.text
        return Completed(self.returncode, 0.1, f"a warning\n{text}", self.timed_out)


def asked(changes: dict[str, Any] | None = None, **answer: Any) -> Any:
    python: Any = Python(answer)
    return describe_timm("resnet18", python, changes or {})


def test_the_spec_is_timms_own_configuration() -> None:
    found = asked()
    assert found.spec == ModelSpec(
        "resnet18_a1_in1k",
        Sources(timm="resnet18.a1_in1k"),
        Preprocess((224, 224), 235, "bicubic", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        labels="imagenet",
        classes=1000,
    )
    assert (found.tag, found.timm, found.has_weights, found.notes) == ("resnet18.a1_in1k", "1.0.31", True, ())


def test_the_users_own_values_win() -> None:
    found = asked({"crop": (256, 256), "mean": (127.5,) * 3})
    assert (found.spec.preprocess.crop, found.spec.preprocess.resize) == ((256, 256), 269)
    assert found.spec.preprocess.mean == (127.5, 127.5, 127.5)


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ({"tag": "in12k", "repository": "timm/resnet18.in12k", "classes": 11821}, "NOT known to be ImageNet's"),
        ({"tag": "fb_dino", "repository": "timm/resnet18.fb_dino"}, "1000 classes, NOT known to be ImageNet's"),
        ({"repository": "somebody/weights"}, "are at somebody/weights"),
        ({"interpolation": "random"}, "bicubic is used"),
        ({"crop_mode": "border"}, "'border'"),
        ({"crop_mode": "squash", "crop_pct": 0.9}, "here none is cropped"),
    ],
)
def test_what_can_not_be_taken_over_is_flagged(answer: dict[str, Any], note: str) -> None:
    found = asked(**answer)
    assert len(found.notes) == 1
    assert note in found.notes[0]
    if "NOT" in note:
        assert found.spec.labels is None


@pytest.mark.parametrize("fixed", [False, True])
def test_any_size_is_taken_over(fixed: bool) -> None:
    rule = asked(input_size=[3, 299, 299], fixed_size=fixed, crop_pct=0.875).spec.preprocess
    assert (rule.crop, rule.canvas, rule.resize) == ((299, 299), (300, 320), 341)


def test_a_squashed_image_is_stretched() -> None:
    assert asked(crop_mode="squash", crop_pct=1.0).spec.preprocess.resize is None


@pytest.mark.parametrize(
    ("changes", "answer", "message", "remedy"),
    [
        ({}, {"known": False, "tags": [], "close": ["resnet18.tv_in1k"]}, "no model", "timm:resnet18.tv_in1k"),
        ({}, {"known": False, "tags": [], "close": []}, "no model", None),
        ({"crop": (256, 256)}, {"fixed_size": True}, "224x224 only", "leave --crop out"),
        ({}, {"input_size": [1, 224, 224]}, "1 channels", None),
        ({}, {"classes": 0}, "not a classifier", None),
    ],
)
def test_a_model_that_can_not_be_built_is_one_clear_error(
    changes: dict[str, Any], answer: dict[str, Any], message: str, remedy: str | None
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        asked(changes, **answer)
    assert remedy is None or remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ModuleNotFoundError: No module named 'timm'", ToolchainMissing),
        ("Killed", ToolchainError),
        ("{}", ToolchainError),
        ("", ToolchainError),
    ],
)
def test_a_python_without_timm_is_told_apart(text: str, kind: type[Exception]) -> None:
    python: Any = Python(text=text, returncode=1)
    with pytest.raises(kind) as caught:
        describe_timm("resnet18", python, {})
    assert type(caught.value) is kind


def test_a_python_that_hangs_is_told() -> None:
    python: Any = Python(text="importing torch", returncode=-9, timed_out=True)
    with pytest.raises(ToolchainError, match="did not answer for resnet18 within 300 s"):
        describe_timm("resnet18", python, {})


def test_weights_that_timm_has_not_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    python: Any = Python({"tag": "", "repository": ""})
    monkeypatch.setattr("edge.toolchain.find.find", lambda _: python)
    with pytest.raises(UsageError, match="no trained weights") as caught:
        resolve(Options(model="timm:resnet18"))
    assert "--weights random" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="--weights demo"):
        resolve(Options(model="timm:resnet18", weights="demo"))
    request, _ = resolve(Options(model="timm:resnet18", weights="random"))
    assert request.spec.sources.timm == "resnet18"


def test_what_was_taken_over_is_shown() -> None:
    seen = "\n".join(described("timm:x", asked(crop_mode="squash", crop_pct=1.0).spec, ["a note"]))
    for word in ("224x224, NCHW, RGB", "stretched", "123.675 116.28 103.53", "ImageNet's order", "! a note", "--std"):
        assert word in seen


# --- TorchScript ---


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"\x80\x02.")
    return path


def test_torchscript_is_told_from_a_pickle_without_opening_it(tmp_path: Path) -> None:
    require_torchscript(archive(tmp_path / "net.pt", "net/code/__torch__.py", "net/constants.pkl"))
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    for path in (old, archive(tmp_path / "state.pth", "state/data.pkl", "state/data/0")):
        with pytest.raises(ModelFileError, match="pickle") as caught:
            require_torchscript(path)
        assert "torch.jit.trace" in str(caught.value.remedy)
    assert not (tmp_path / "went off").exists()


def test_other_files_are_no_torchscript(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"<html>")
    for path in (tmp_path / "net.pt", archive(tmp_path / "zip.pt", "readme.txt")):
        with pytest.raises(ModelFileError, match="TorchScript"):
            require_torchscript(path)
    with pytest.raises(ModelFileError, match="does not exist"):
        require_torchscript(tmp_path / "none.pt")


def test_a_torchscript_needs_its_size(tmp_path: Path) -> None:
    path = archive(tmp_path / "net.pt", "net/code/__torch__.py", "net/constants.pkl")
    given: dict[str, Any] = {"model": path, "mean": 127.5, "std": (127.5,) * 3}
    with pytest.raises(UsageError, match="--crop missing"):
        resolve(Options(**given))
    spec = resolve(Options(**given, crop=64))[0].spec
    assert (spec.name, spec.sources, spec.classes) == ("net", Sources(torchscript=str(path)), None)
    assert (spec.preprocess.layout, spec.preprocess.resize) == ("NCHW", 73)


# --- the order of classes ---


def test_imagenets_classes_are_known_by_synset_and_by_name() -> None:
    names = class_names("imagenet") or ()
    assert against_imagenet(names) == ""
    assert against_imagenet(list(imagenet())) == ""
    assert against_imagenet([name.split(", ")[0].upper().replace(" ", "_") for name in names]) == ""


def test_another_order_is_flagged() -> None:
    names = list(class_names("imagenet") or ())
    assert "NOT in ImageNet's order: class 0" in against_imagenet(sorted(names, reverse=True))
    assert "NOT in ImageNet's order" in against_imagenet([*names[1:], names[0]])
    assert "NOT ImageNet's" in against_imagenet([f"part {i}" for i in range(1000)])
    assert "10 names" in against_imagenet(names[:10])


@pytest.mark.parametrize(
    "text",
    ['["a", "b"]', "{0: 'a', 1: 'b'}", '{"1": "b", "0": "a"}', "a\nb\n"],
    ids=["list", "python", "json", "lines"],
)
def test_names_inside_an_onnx_are_read(text: str) -> None:
    model = helper.make_model(helper.make_graph([], "none", [], []))
    assert names_in(model) is None
    helper.set_model_props(model, {"names": text})
    assert names_in(model) == ("a", "b")
    helper.set_model_props(model, {"names": "{[]: 1}"})  # Python cannot make this
    assert names_in(model) == ("{[]: 1}",)


def test_a_model_of_1000_classes_says_what_is_known(tmp_path: Path) -> None:
    model = helper.make_model(helper.make_graph([], "none", [], []))
    names = list(class_names("imagenet") or ())
    assert notes_on_classes(model, 1000, "imagenet") == ()
    assert notes_on_classes(model, 10, None) == ()
    assert "not known" in notes_on_classes(model, 1000, None)[0]
    labels = tmp_path / "names.txt"
    labels.write_text("\n".join(names[::-1]))
    assert "NOT in ImageNet's order" in notes_on_classes(model, 1000, str(labels))[0]
    labels.write_text("\n".join(names))
    assert notes_on_classes(model, 1000, str(labels)) == ()
    helper.set_model_props(model, {"names": repr(names[::-1])})
    assert "NOT in ImageNet's order" in notes_on_classes(model, 1000, None)[0]


# --- with the compiler's real Python ---

# A tiny net with a dropout, so that a net left in training mode would show; then a net broken on purpose.
WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import export_timm as worker
import numpy as np, torch
from onnx import numpy_helper
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Dropout(), torch.nn.Linear(8 * 15 * 15, 5)).eval()
job = {"tag": "tiny", "script": None, "height": 32, "width": 32, "range": [-2, 2]}
graph = worker.to_onnx(net, job)
good = worker.compare(net, graph, job)
weight = next(t for t in graph.graph.initializer if len(t.dims) == 4)
weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
try:
    worker.compare(net, graph, job)
    refused, about = "", ""
except worker.TimmError as error:
    refused, about = str(error), error.about
torch.jit.trace(net, torch.zeros(1, 3, 32, 32)).save("net.pt")
torch.save(net.state_dict(), "state.pt")
print(json.dumps({"good": good, "refused": refused, "about": about}))
"""


@pytest.fixture(scope="module")
def made(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("torch")
    workers = toolchain.worker_path("export_timm.py").parent
    done = toolchain.run_python(["-c", WORKER, str(workers)], cwd=folder, timeout=300)
    assert done.returncode == 0, done.tail
    return json.loads(done.tail.splitlines()[-1]), folder


@pytest.mark.compiler
def test_an_onnx_that_differs_from_torch_is_refused(made: tuple[dict[str, Any], Path]) -> None:
    answer, _ = made
    assert answer["good"] < 1e-5
    assert "differs from torch" in answer["refused"]
    assert answer["about"] == "numbers"


@pytest.mark.compiler
def test_a_torchscript_becomes_an_onnx(made: tuple[dict[str, Any], Path], edge: Run, tmp_path: Path) -> None:
    script = str(made[1] / "net.pt")
    options = ["--mean", "127.5", "--std", "127.5", "--crop", "32", "--build-dir", str(tmp_path), "--json"]
    code, out, err = edge("export", script, *options)
    assert code == 0, err
    result = json.loads(out)["result"]
    assert (result["classes"], result["weights"]["source"]) == (5, "torchscript")
    assert result["max_error"] < 1e-5
    assert "(x - mean) / std" in err
    code, _, err = edge("export", str(made[1] / "state.pt"), *options)
    assert (code, "pickle" in err) == (1, True)


@pytest.mark.compiler
def test_any_timm_model_is_exported_from_its_name(edge: Run, tmp_path: Path) -> None:
    options = ("--weights", "random", "--build-dir", str(tmp_path), "--json")
    code, out, err = edge("export", "timm:test_vit", *options)
    assert code == 0, err
    result = json.loads(out)["result"]
    assert (result["onnx"], result["classes"]) == ("test_vit_r160_in1k_random.onnx", 1000)
    assert result["max_error"] < 1e-3
    assert "timm:test_vit.r160_in1k" in err
    assert "160x160, NCHW, RGB" in err
    code, _, err = edge("export", "timm:test_vitt", *options)
    assert code == 2
    assert "timm:test_vit" in err
