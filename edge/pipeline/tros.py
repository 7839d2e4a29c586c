"""ROS 2 on the board: what ``dnn_node_example`` of the vendor's TROS needs to run a program."""

from __future__ import annotations

from math import prod
from textwrap import wrap

from edge.files import json_text
from edge.folder.metadata import Metadata

CONFIG, LAUNCH = "workconfig.json", "dnn_node_example.launch.py"
_LAUNCH = '''"""Run the program of this folder in TROS's dnn_node_example.

ros2 launch ./dnn_node_example.launch.py                  takes NV12 images from the topic /hbmem_img, as of mipi_cam
ros2 launch ./dnn_node_example.launch.py image:=IMAGE.jpg takes one image
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def node(context):
    image = LaunchConfiguration("image").perform(context)
    if image:
        feed = {"feed_type": 0, "image": os.path.abspath(image), "image_type": 0}
    else:
        feed = {"feed_type": 1, "is_shared_mem_sub": 1}
    folder = os.path.dirname(os.path.abspath(__file__))  # the paths in workconfig.json start here
    parameters = [{"config_file": "workconfig.json", **feed}]
    return [
        Node(package="dnn_node_example", executable="example", output="screen", cwd=folder, parameters=parameters)
    ]


def generate_launch_description():
    return LaunchDescription([DeclareLaunchArgument("image", default_value=""), OpaqueFunction(function=node)])
'''
_README = """
In ROS 2 (TROS), the classes on the topic hobot_dnn_detection; dnn_node_example fits the whole image into the input,
where edge resizes and crops as described in metadata.json, which may cost some accuracy:

  source /opt/tros/humble/setup.bash
  ros2 launch ./{launch} image:=IMAGE.jpg
"""


def files(metadata: Metadata) -> dict[str, bytes]:
    """Return the files for ``dnn_node_example``, by name; none where :func:`obstacle` tells one."""
    if obstacle(metadata):
        return {}
    config = {
        "model_file": metadata.files["bin"].path,
        "dnn_Parser": "classification",
        "model_output_count": 1,
        "cls_names_list": metadata.files["labels"].path,
    }
    return {CONFIG: json_text(config).encode(), LAUNCH: _LAUNCH.encode()}


def obstacle(metadata: Metadata) -> str:
    """Return why ``dnn_node_example`` can't run a program; empty if it can.

    Its parser of classes reads ``shape[1] * shape[2] * shape[3]`` contiguous floats of the first output; those of boxes
    read maps in the layout NHWC, and edge's are NCHW.
    """
    if "bin" not in metadata.files:
        return "it runs programs of the BPU, and this build has no .bin"
    if metadata.inputs or metadata.task == "raw":
        return "it runs programs of one image that give classes or boxes"
    if metadata.detector is not None:
        return "its parsers of boxes read maps of 1 x height x width x channels, this program's channels come first"
    if "labels" not in metadata.files:
        return "it wants class names, and this build has none"
    shapes = [output.shape for output in metadata.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or prod(shapes[0]) != metadata.classes:
        seen = " and ".join("x".join(map(str, shape)) for shape in shapes) or "unknown"
        return (
            f"its parser of classes reads one output of 1x{metadata.classes}x1x1, this program's is {seen} "
            "(if it was built by an earlier edge, build it again)"
        )
    return ""


def readme(metadata: Metadata) -> str:
    """Return what the bundle's README says of ROS 2."""
    why = obstacle(metadata)
    if not why:
        return _README.format(launch=LAUNCH)
    return "\n".join(["", *wrap(f"ROS 2: dnn_node_example of TROS can't run this program: {why}.", 110), ""])
