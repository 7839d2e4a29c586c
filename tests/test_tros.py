"""The bundle's files for the vendor's ROS 2 node, read by the rules of its parser of classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from edge.folder.metadata import FILE, read_metadata, write_metadata
from edge.pipeline.bundle import bundle
from edge.pipeline.tros import CONFIG, LAUNCH
from edge.runtime import load
from edge.specs.detector import Detector, Scale
from edge.specs.schema import Input, Output
from tests.fabricated import make_build, save_photo

NAMES = ("red thing", "green thing", "blue thing", "grey thing")


def build(folder: Path, **changes: Any) -> Path:
    """Write a build whose scores are 1x4x1x1, as of a network that ends in a convolution."""
    make_build(folder, names=NAMES, program=b"program")
    about = evolve(read_metadata(folder / FILE), outputs=(Output("scores", (1, 4, 1, 1), "float32"),))
    write_metadata(folder / FILE, evolve(about, **changes))
    return folder


def parsed(folder: Path, scores: np.ndarray) -> str:
    """Return the class that dnn_node_example would tell, started in a folder, of a program's first output."""
    document = json.loads((folder / CONFIG).read_bytes())
    assert (folder / document["model_file"]).read_bytes() == b"program"
    assert document["dnn_Parser"] == "classification"
    assert document["model_output_count"] == 1
    names = (folder / document["cls_names_list"]).read_text().removesuffix("\n").split("\n")
    shape = (*scores.shape, *[0] * (8 - scores.ndim))  # libdnn's array of 8, whatever the rank
    floats = np.frombuffer(scores.tobytes(), np.float32)[: shape[1] * shape[2] * shape[3]]
    return names[int(floats.argmax())]


def test_the_parser_tells_the_class_that_edge_tells(tmp_path: Path) -> None:
    made = bundle(build(tmp_path / "net"), tmp_path / "bundle").path
    shape = read_metadata(made / FILE).outputs[0].shape
    seen = set()
    with load(made, "portable") as net:
        for color in ((250, 20, 20), (20, 250, 20), (20, 20, 250), (128, 128, 128)):
            image = save_photo(tmp_path / "image.png", color=color)
            [(label, _)] = net.classify(image, 1)
            assert parsed(made, net.scores(image).reshape(shape)) == label
            seen.add(label)
    assert len(seen) > 1
    readme = (made / "README.txt").read_text()
    assert f"ros2 launch ./{LAUNCH} image:=IMAGE.jpg" in readme


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outputs": (Output("scores", (1, 4), "float32"),)}, "reads one output of 1x4x1x1, this program's is 1x4 "),
        ({"outputs": (Output("a", (1, 4, 1, 1), "float32"),) * 2}, "is 1x4x1x1 and 1x4x1x1 "),
        ({"outputs": ()}, "this program's is unknown"),
        ({"task": "raw"}, "runs programs of one image"),
        ({"inputs": (Input("a", (1, 3, 8, 8), image=True),) * 2}, "runs programs of one image"),
        ({"task": "detect", "detector": Detector("dfl", 4, (Scale(8, "a", "b"),))}, "channels come first"),
    ],
)
def test_what_its_parsers_would_misread_is_told_and_not_shipped(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    made = bundle(build(tmp_path / "net", **changes), tmp_path / "bundle").path
    assert not {CONFIG, LAUNCH} & {path.name for path in made.iterdir()}
    lines = (made / "README.txt").read_text().splitlines()
    assert reason in " ".join(lines[lines.index("") :])
    assert max(map(len, lines)) <= 110


def test_without_class_names_or_program_there_is_nothing_to_run(tmp_path: Path) -> None:
    about = read_metadata(build(tmp_path / "net") / FILE)
    for missing, reason in (("labels", "it wants class names"), ("bin", "it runs programs")):
        files = {role: entry for role, entry in about.files.items() if role != missing}
        write_metadata(tmp_path / "net" / FILE, evolve(about, files=files))
        made = bundle(tmp_path / "net", tmp_path / "bundle").path
        assert not (made / CONFIG).exists()
        assert reason in (made / "README.txt").read_text()


def launched(path: Path, monkeypatch: pytest.MonkeyPatch, **given: str) -> dict[str, Any]:
    """Return what a launch file gives to its only node, with ROS's launch in a few lines."""
    started: list[dict[str, Any]] = []

    class LaunchConfiguration:
        def __init__(self, name: str) -> None:
            self.name = name

        def perform(self, context: dict[str, str]) -> str:
            return context[self.name]

    stand_ins = {
        "launch": {"LaunchDescription": list},
        "launch.actions": {
            "DeclareLaunchArgument": lambda name, *, default_value: ("argument", name, default_value),
            "OpaqueFunction": lambda *, function: ("function", function),
        },
        "launch.substitutions": {"LaunchConfiguration": LaunchConfiguration},
        "launch_ros": {},
        "launch_ros.actions": {"Node": lambda **keywords: started.append(keywords)},
    }
    for name, members in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    scope = {"__file__": str(path), "__name__": "launch_file"}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    context: dict[str, str] = {}
    for entity in scope["generate_launch_description"]():  # type: ignore[operator]
        if entity[0] == "argument":
            context[entity[1]] = given.get(entity[1], entity[2])
        else:
            entity[1](context)
    [node] = started
    assert (node.pop("package"), node.pop("executable"), node.pop("output")) == (
        "dnn_node_example",
        "example",
        "screen",
    )
    return node


def test_the_launch_file_starts_the_node_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle(build(tmp_path / "net"), tmp_path / "bundle").path
    monkeypatch.chdir(tmp_path)
    camera = launched(made / LAUNCH, monkeypatch)
    assert camera["cwd"] == str(made)  # the paths in the configuration are relative
    assert camera["parameters"] == [{"config_file": CONFIG, "feed_type": 1, "is_shared_mem_sub": 1}]
    image = launched(made / LAUNCH, monkeypatch, image="photos/one.jpg")
    path = str(tmp_path / "photos" / "one.jpg")  # of the shell, not of the node
    assert image["parameters"] == [{"config_file": CONFIG, "feed_type": 0, "image": path, "image_type": 0}]
