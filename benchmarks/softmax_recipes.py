"""The cost of a Softmax on the CPU, with 8 and with 16 bits, in a small trained NextViT.

    python benchmarks/softmax_recipes.py [--images 3000] [--epochs 10] [--level O1] [--keep DIR]

Four blocks of timm's NextViT, two of them with attention, learn the rendered images at 96x96 in the compiler's Python,
on the CPU, in some minutes. Then ``edge build`` compiles each recipe, and the verified integers are compared with the
float network behind NV12 on 480 test images. The same seeds give the same images; torch on another processor gives
slightly different weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.images.demo import CLASSES, draw
from edge.images.preprocess import network_input_from_nv12, resize_crop, rgb_to_nv12
from edge.runtime import load
from edge.specs import Preprocess
from edge.toolchain.find import find

SIDE, SHORTER = 96, 110
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SEEN = Preprocess((SIDE, SIDE), SHORTER, "bicubic", "rgb", MEAN, STD)
RECIPES = {
    "int8": "float, on the CPU",
    "int8_softmax_int8": "int8, on the BPU",
    "int8_softmax_int16": "int16, on the BPU",
}
TRAIN = """\
import sys
import numpy as np
import torch
from timm.models.nextvit import ConvNormAct, NextConvBlock, NextTransformerBlock
from torch import nn

images, labels, out, classes, epochs = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
torch.manual_seed(0)
net = nn.Sequential(
    ConvNormAct(3, 16, stride=2), ConvNormAct(16, 32, stride=2),
    NextConvBlock(32, 32, head_dim=16),
    NextTransformerBlock(32, 64, 0.0, stride=2, sr_ratio=2, head_dim=16, mix_block_ratio=0.5),
    NextConvBlock(64, 64, head_dim=16),
    NextTransformerBlock(64, 128, 0.0, stride=2, sr_ratio=1, head_dim=16, mix_block_ratio=0.5),
    nn.BatchNorm2d(128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes),
)
x, y = np.load(images), torch.from_numpy(np.load(labels))
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
steps = len(x) // 64 * epochs
optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.02)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
order = np.random.default_rng(0)
loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
for epoch in range(epochs):
    right = 0
    chosen = order.permutation(len(x))
    for start in range(0, len(x) - 63, 64):
        index = chosen[start : start + 64]
        batch = (torch.from_numpy(x[index]).permute(0, 3, 1, 2).float() - mean) / std
        scores = net(batch)
        loss = loss_of(scores, y[index])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right += int((scores.argmax(1) == y[index]).sum())
    share = 100 * right / (len(x) // 64 * 64)
    print(f"epoch {epoch + 1}: {share:.1f} % of the training images", file=sys.stderr)
net.eval()
print(sum(p.numel() for p in net.parameters()))
torch.onnx.export(net, torch.zeros(1, 3, SIDE, SIDE), out, opset_version=11, do_constant_folding=True)
"""


def rendered(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return training images as the network sees them, RGB (count, 96, 96, 3), and their classes."""
    x, y = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty(count, np.int64)
    for index in range(count):
        rgb, y[index] = draw("train", index)
        x[index] = resize_crop(rgb, SEEN)
    return x, y


def trained(folder: Path, images: int, epochs: int) -> Path:
    """Train in the compiler's Python and return the ONNX."""
    x, y = rendered(images)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    python = find("managed").python
    script = folder / "train.py"
    script.write_text(TRAIN.replace("MEAN", repr(MEAN)).replace("STD", repr(STD)).replace("SIDE", str(SIDE)))
    out = folder / "small_nextvit.onnx"
    argv = [str(python), str(script), "x.npy", "y.npy", out.name, str(len(CLASSES)), str(epochs)]
    done = subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    parameters = int(done.stdout.split()[0])
    print(f"{parameters / 1e6:.2f} M parameters, {images} images, {epochs} epochs, {SIDE}x{SIDE}")
    return out


def built(onnx: Path, recipe: str, level: str, folder: Path) -> float:
    """Build with a recipe and return the static latency in us."""
    edge = Path(sys.executable).with_name("edge")
    argv = [
        str(edge), "build", str(onnx), "--crop", str(SIDE), "--resize", str(SHORTER), "--level", level,
        "--interpolation", "bicubic", "--precision", recipe, "--build-dir", str(folder / recipe),
        "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)),
        "--calib", "demo:calibration", "--images", "demo:test", "--count", "480",
    ]  # fmt: skip
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    manifest = json.loads((folder / recipe / onnx.stem / "manifest.json").read_text())
    return float(manifest["static"]["latency_us"])


def compared(onnx: Path, build: Path, frames: list[NDArray[np.uint8]]) -> tuple[float, float]:
    """Return agreement in percent and mean cosine of a build's scores with float's, both behind NV12."""
    import onnxruntime  # after edge, which turns its telemetry off

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    wanted = [session.run(None, {given.name: network_input_from_nv12(frame, SEEN)})[0][0] for frame in frames]
    with load(build, "portable") as net:
        scores = [net.run(frame)[0].reshape(-1) for frame in frames]
    same = [int(a.argmax() == b.argmax()) for a, b in zip(wanted, scores, strict=True)]
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(wanted, scores, strict=True)]
    return 100 * float(np.mean(same)), float(np.mean(cosine))


def main() -> None:
    """Train, build three times, print one line per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--level", default="O1")
    parser.add_argument("--keep", type=Path, help="folder of the network and the builds, kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        onnx = folder / "small_nextvit.onnx"
        if not onnx.exists():
            trained(folder, arguments.images, arguments.epochs)
        frames = [rgb_to_nv12(resize_crop(draw("test", index)[0], SEEN)) for index in range(480)]
        print("Softmax              agreement %    cosine        us  us / the CPU's BPU parts")
        first = 0.0
        for recipe, name in RECIPES.items():
            latency = built(onnx, recipe, arguments.level, folder)
            agreement, cosine = compared(onnx, folder / recipe / onnx.stem, frames)
            first = first or latency
            print(f"{name:<20} {agreement:>11.2f} {cosine:>9.4f} {latency:>9.1f} {latency / first:>6.3f}", flush=True)


if __name__ == "__main__":
    main()
