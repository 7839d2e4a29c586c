"""What a program loses when its images arrive in OpenCV's video range instead of full range.

    python benchmarks/nv12_range.py PROGRAM.bin IMAGES [--count 100] [--threads 2]

Many samples make NV12 with OpenCV's ``COLOR_BGR2YUV_I420``: BT.601 in video range (luma 16..235), while
programs are compiled for full range unless their YAML says ``bt601_video``. Here the compiled program itself
runs on both, in the vendor's simulator, on the same images: resize 256, crop 224, bilinear.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.images import ImageItem, open_images
from edge.images.preprocess import resize_crop, rgb_to_nv12
from edge.measure.statistics import wilson
from edge.runtime import Net, load
from edge.runtime.scores import probabilities
from edge.specs import Preprocess


def video_range_nv12(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode as many samples do: OpenCV's planar I420, its two chroma planes interleaved; uint8, H*W*3/2."""
    height, width = rgb.shape[:2]
    flat = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    luma, chroma = flat[: height * width], flat[height * width :].reshape(2, -1)
    return np.concatenate([luma, chroma.T.reshape(-1)])


@frozen
class Row:
    """One image: label, answers and right class's probability of both; how far bytes and scores differ."""

    label: int
    answers: tuple[int, int]
    right: tuple[float, float]
    levels: float
    cosine: float


def measure(net: Net, item: ImageItem, preprocess: Preprocess) -> Row:
    """Run an image in full range and in video range."""
    rgb = np.ascontiguousarray(resize_crop(item.load(), preprocess))
    full, video = rgb_to_nv12(rgb), video_range_nv12(rgb)
    a, b = (probabilities(net.run(nv12)[0].reshape(-1), net.score_kind) for nv12 in (full, video))
    label = item.label
    if label is None:
        raise SystemExit(f"{item.name} has no label")
    return Row(
        label,
        (int(a.argmax()), int(b.argmax())),
        (float(a[label]), float(b[label])),
        float(np.abs(full.astype(np.int16) - video).mean()),
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    )


def main() -> None:
    """Run all images twice and print Top-1 of both, the loss and how far the answers move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    preprocess = Preprocess(crop=(224, 224), resize=256, interpolation="bilinear")
    items = open_images(arguments.images, classes=1000)[: arguments.count]
    started = time.monotonic()
    with load(arguments.program, "hbdk_sim") as net, ThreadPoolExecutor(arguments.threads) as pool:
        rows = list(pool.map(lambda item: measure(net, item, preprocess), items))
        title = f"{net.info.model} in {net.backend} ({net.info.version})"
    seconds = (time.monotonic() - started) * arguments.threads / (2 * len(rows))
    n = len(rows)
    right = np.array([[answer == row.label for answer in row.answers] for row in rows])
    chance = np.array([row.right for row in rows])
    cosine = np.array([row.cosine for row in rows])
    print(f"{title}: {n} images, {seconds:.2f} s a frame on one of {arguments.threads} threads")
    print("NV12                    right   Top-1 %   95 % interval   mean probability of the right class")
    for index, name in enumerate(("full range (edge)", "video range (OpenCV)")):
        count = int(right[:, index].sum())
        low, high = (100 * bound for bound in wilson(count, n))
        print(
            f"{name:<22} {count:>4}/{n}  {100 * count / n:>7.2f}   [{low:.1f}, {high:.1f}]"
            f"   {chance[:, index].mean():.4f}"
        )
    lost, won = int((right[:, 0] & ~right[:, 1]).sum()), int((~right[:, 0] & right[:, 1]).sum())
    same = sum(row.answers[0] == row.answers[1] for row in rows)
    levels = np.mean([row.levels for row in rows])
    print(f"loss: {100 * (lost - won) / n:.2f} points ({lost} images lost, {won} won)")
    print(
        f"same answer on {same}/{n}; NV12 bytes differ by {levels:.1f} levels on average; cosine of the "
        f"probabilities {cosine.mean():.4f}, at worst {cosine.min():.4f}"
    )


if __name__ == "__main__":
    main()
