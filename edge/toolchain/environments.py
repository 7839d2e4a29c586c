"""The environments that edge installs and keeps, as data: the compiler's and one for each framework."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen


@frozen
class Environment:
    """One environment, pinned by a lock file, in a folder of its own under the cache.

    Attributes:
        name: the word for it on the command line.
        title: what messages call it.
        folder: where it lies in the cache.
        lock: name of its lock file, beside this module.
        needed_bytes: free space that an install asks for, downloads included.
        size: what a user is told of it before.
        install: the command that installs it.
        version_files: name in results -> file that states the version, relative to site-packages; empty
            where :attr:`distributions` say it.
        distributions: packages whose versions are told.
        programs: what has to be in its bin folder.
        modules: what has to be in its site-packages.
        verify: commands that have to end with status 0 before it counts as whole.
        elsewhere: what to do on a machine that it can't be had for.
        offline: what to do without a network, besides trying again.
    """

    name: str
    title: str
    folder: str
    lock: str
    needed_bytes: int
    size: str
    install: str
    elsewhere: str
    version_files: Mapping[str, str] = field(factory=dict)
    distributions: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    verify: tuple[tuple[str, ...], ...] = ()
    offline: str = ""


COMPILER = Environment(
    name="compiler",
    title="the vendor's compiler",
    folder="toolchain",
    lock="rdkx5-py310.lock",
    needed_bytes=8 * 10**9,  # measured: 4.2 GB installed and 2.5 GB of downloads
    size="about 4.2 GB",
    install="edge toolchain install",
    elsewhere="use the vendor's Docker image (--mapper docker), a Linux PC, or --mapper portable",
    # Reading these beats a 5-second start.
    version_files={
        "hb_mapper": "horizon_tc_ui/version.py",
        "hbdk": "hbdk/__init__.py",
        "horizon_nn": "hmct/version.py",
    },
    programs=("hb_mapper",),
    verify=(
        ("hb_mapper", "--version"),
        ("hbdk-cc", "--version"),
        (
            "python",
            "-c",
            "import horizon_tc_ui, horizon_nn, hmct, hbdk, onnx, onnxruntime, torch, torchvision, timm",
        ),
    ),
    offline="or --mapper portable, which needs no compiler",
)

PADDLE = Environment(
    name="paddle",
    title="PaddlePaddle",
    folder="paddle",
    lock="paddle-py310.lock",
    needed_bytes=2 * 10**9,  # measured: 0.9 GB installed and 0.25 GB of downloads
    size="about 0.9 GB, 0.25 GB of it downloaded",
    install="edge toolchain install paddle",
    elsewhere="where Paddle runs: paddle2onnx --model_dir DIR --model_filename inference.json "
    "--params_filename inference.pdiparams --opset_version 11 --save_file model.onnx; "
    "then here: edge build model.onnx",
    distributions=("paddlepaddle", "paddle2onnx"),
    modules=("paddle/__init__.py", "paddle2onnx/__init__.py"),
    verify=(("python", "-c", "import paddle, paddle2onnx, onnx"),),
)

MINDSPORE = Environment(
    name="mindspore",
    title="MindSpore",
    folder="mindspore",
    lock="mindspore-py310.lock",
    needed_bytes=5 * 10**9,  # measured: 2.5 GB installed and 0.85 GB of downloads
    size="about 2.5 GB, 0.85 GB of it downloaded",
    install="edge toolchain install mindspore",
    elsewhere='where MindSpore runs: python -c "import mindspore as ms, numpy as np; ms.export(NET, '
    "ms.Tensor(np.zeros((1, 3, 224, 224), np.float32)), file_name='model', file_format='ONNX')\"; "
    "then here: edge build model.onnx",
    distributions=("mindspore", "mindcv"),
    modules=("mindspore/__init__.py", "mindcv/__init__.py"),
    verify=(("python", "-c", "import mindspore, mindcv"),),
)

FRAMEWORKS: Mapping[str, Environment] = {env.name: env for env in (PADDLE, MINDSPORE)}
ENVIRONMENTS: Mapping[str, Environment] = {env.name: env for env in (COMPILER, PADDLE, MINDSPORE)}
