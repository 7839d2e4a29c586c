#!/usr/bin/env python3
"""Train the demo network on the images that edge renders, and pack it for the wheel.

Three steps, each its own subcommand, because they want different Pythons:

    python scripts/train_demo.py train   --out DIR     # any recent torch and timm; CPU or GPU
    python scripts/train_demo.py export  --weights DIR/demo.safetensors --onnx FILE      # torch 1.13
    python scripts/train_demo.py measure --onnx FILE --training DIR/training.json --record FILE.json

``export`` needs torch 1.13: its exporter names nodes after the module path ("/stages/stages.0/..."), which
the precision recipes rely on. ``measure`` needs edge's own environment and writes the figures of the file as
shipped, that is of the float16-rounded weights run by onnxruntime.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edge.images.demo import CLASSES, SIDE, draw

MODEL = "convnext_atto"
INPUT = (1, 3, SIDE, SIDE)
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
VALIDATION_START = 1_000_000  # in the train stream, far beyond what is trained on


def main() -> int:
    """Run the chosen step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)

    step = steps.add_parser("train", help="render, train, write demo.safetensors and training.json")
    step.add_argument("--out", type=Path, required=True, help="folder for the results")
    step.add_argument("--cache", type=Path, help="folder for the rendered images (default: OUT)")
    step.add_argument("--images", type=int, default=16_000, help="training images; 147 KiB each")
    step.add_argument("--validation", type=int, default=480, help="images to watch the training with")
    step.add_argument(
        "--init", type=Path, help="safetensors to start from; tensors that don't fit, as the head, are left out"
    )
    step.add_argument(
        "--phases",
        nargs="+",
        default=["112:2.5:1e-3", "224:0.6:5e-4"],
        metavar="CROP:EPOCHS:RATE",
        help="each with its own warm-up to AdamW's RATE and cosine to 0; small centre crops come first "
        "because they hold the subject and cost a quarter (default: %(default)s)",
    )
    step.add_argument("--batch", type=int, default=64)
    step.add_argument("--seed", type=int, default=0, help="of the weights, the order and the images")
    step.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that render")
    step.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    step.set_defaults(run=train)

    step = steps.add_parser("export", help="safetensors to packed ONNX (torch 1.13)")
    step.add_argument("--weights", type=Path, required=True)
    step.add_argument("--onnx", type=Path, required=True, help="file to write")
    step.set_defaults(run=export)

    step = steps.add_parser("measure", help="Top-1 and Top-5 of the packed ONNX, into the record")
    step.add_argument("--onnx", type=Path, required=True)
    step.add_argument("--training", type=Path, required=True, help="training.json of the train step")
    step.add_argument("--record", type=Path, required=True, help="JSON file to write")
    step.add_argument("--images", type=int, default=2400)
    step.set_defaults(run=measure)

    args = parser.parse_args()
    args.run(args)
    return 0


def network_image(split: str, index: int, seed: int) -> tuple[np.ndarray, int]:
    """Return a rendered image as the network is to see it: edge's own resize and crop."""
    from edge.images.preprocess import resize_crop
    from edge.specs import Preprocess

    rgb, label = draw(split, index, seed)
    return resize_crop(rgb, Preprocess()), label


def _render_range(split: str, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [network_image(split, index, seed) for index in range(start, start + count)]
    return np.stack([p for p, _ in pairs]), np.array([label for _, label in pairs])


def render(file: Path, start: int, count: int, seed: int, jobs: int) -> tuple[np.ndarray, np.ndarray]:
    """Render ``count`` images of the train stream to ``file`` unless it holds them already.

    Returns:
        The images, uint8 (count, 224, 224, 3), mapped from the file, and their labels.
    """
    labels_file = file.with_suffix(".labels.npy")
    if not labels_file.exists():
        images = np.lib.format.open_memmap(file, "w+", np.uint8, (count, SIDE, SIDE, 3))
        labels = np.empty(count, np.int64)
        chunk = 200
        with ProcessPoolExecutor(jobs) as pool:
            starts = range(0, count, chunk)
            sizes = [min(chunk, count - s) for s in starts]
            tasks = [
                pool.submit(_render_range, "train", start + s, n, seed) for s, n in zip(starts, sizes, strict=True)
            ]
            for s, n, task in zip(starts, sizes, tasks, strict=True):
                images[s : s + n], labels[s : s + n] = task.result()
        images.flush()
        np.save(labels_file, labels)
    return np.load(file, mmap_mode="r"), np.load(labels_file)


def train(args: argparse.Namespace) -> None:
    """Train and write the weights, already rounded to float16, and what they were trained with."""
    # Threads that spin while they wait halve the speed on a machine that others use too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import cv2
    import timm
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn import functional

    began = time.monotonic()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    cache = args.cache or args.out
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(b"".join(draw("train", i)[0].tobytes() for i in range(12))).hexdigest()
    name = f"{key[:12]}-{args.seed}"
    images, labels = render(cache / f"train-{args.images}-{name}.npy", 0, args.images, args.seed, args.jobs)
    held_out, held_labels = render(
        cache / f"held-{args.validation}-{name}.npy", VALIDATION_START, args.validation, args.seed, args.jobs
    )
    rendered = time.monotonic()
    print(f"{args.images} images ready after {rendered - began:.0f} s", flush=True)

    torch.manual_seed(args.seed)
    order = np.random.default_rng(args.seed)
    model = timm.create_model(MODEL, num_classes=len(CLASSES))
    if args.init:
        own = model.state_dict()
        start = {k: v for k, v in load_file(args.init).items() if k in own and v.shape == own[k].shape}
        missing = model.load_state_dict(start, strict=False)
        print(f"started from {args.init.name}; new: {', '.join(missing.missing_keys)}", flush=True)
    model = model.to(device, memory_format=torch.channels_last)

    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))

    def tensor(batch: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() - mean) / std

    def autocast() -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    @torch.no_grad()
    def validate(crop: int = SIDE) -> float:
        model.eval()
        edge = (SIDE - crop) // 2
        inner = slice(edge, edge + crop)
        right = 0
        for first in range(0, len(held_out), 60):
            with autocast():
                scores = model(tensor(np.array(held_out[first : first + 60, inner, inner])))
            right += int((scores.argmax(1).cpu().numpy() == held_labels[first : first + 60]).sum())
        model.train()
        return 100 * right / len(held_out)

    plan = []
    for phase in args.phases:
        crop, epochs, rate = phase.split(":")
        plan.append((int(crop), int(args.images * float(epochs)) // args.batch, float(rate)))
    total = sum(steps for _, steps, _ in plan)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}])
    done = 0
    queue = np.empty(0, np.int64)
    recent: list[float] = []
    for crop, steps, rate in plan:
        warmup = max(1, steps // 15)
        for step in range(steps):
            cosine = 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / warmup) * cosine
            if len(queue) < args.batch:
                queue = np.concatenate([queue, order.permutation(args.images)])
            chosen, queue = np.sort(queue[: args.batch]), queue[args.batch :]
            room = SIDE - crop
            # The subject lies near the centre; a small shift is all that keeps it inside the crop.
            y, x = (room // 2 + int(order.integers(-min(6, room // 2), min(6, room // 2) + 1)) for _ in "yx")
            batch = images[chosen, y : y + crop, x : x + crop]
            if order.integers(2):
                batch = batch[:, :, ::-1]
            with autocast():
                scores = model(tensor(np.ascontiguousarray(batch)))
            loss = functional.cross_entropy(
                scores.float(), torch.from_numpy(labels[chosen]).to(device), label_smoothing=0.05
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            done += 1
            recent.append(loss.detach().item())
            if done % 50 == 0 or done == total:
                line = f"step {done}/{total} crop {crop} loss {np.mean(recent):.3f}"
                if done % 200 == 0 or done == total:
                    line += f" held-out Top-1 {validate(crop):.1f}"
                print(f"{line} {time.monotonic() - rendered:.0f} s", flush=True)
                recent.clear()
        save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, args.out / f"{crop}.safetensors")

    # What ships is float16, so that is what is saved and measured.
    weights = {k: v.half().float().cpu().contiguous() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    held_top1 = validate()
    save_file(weights, args.out / "demo.safetensors")
    record = {
        "model": MODEL,
        "classes": list(CLASSES),
        "seed": args.seed,
        "training_images": args.images,
        "phases": args.phases,
        "batch": args.batch,
        "init": args.init.name if args.init else None,
        "init_sha256": hashlib.sha256(args.init.read_bytes()).hexdigest() if args.init else None,
        "first_12_images_sha256": key,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "training_seconds": round(time.monotonic() - rendered),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "held_out": {"images": args.validation, "top1": round(held_top1, 2)},
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"held-out Top-1 {held_top1:.1f} of {args.validation}, float16 weights")


def export(args: argparse.Namespace) -> None:
    """Export with torch 1.13 and store the weights as float16."""
    import onnx
    import timm
    import torch
    from safetensors.torch import load_file

    from edge.sources.demo_weights import pack, unpack

    if not torch.__version__.startswith("1.13."):
        sys.exit(f"torch {torch.__version__}: node names need 1.13; run this with the compiler's Python")
    model = timm.create_model(MODEL, num_classes=len(CLASSES)).eval()
    model.load_state_dict(load_file(args.weights))
    args.onnx.parent.mkdir(parents=True, exist_ok=True)
    whole = args.onnx.with_suffix(".float32.onnx")
    torch.onnx.export(
        model,
        torch.zeros(INPUT),
        str(whole),
        opset_version=11,
        do_constant_folding=True,
        input_names=["data"],
        output_names=["prob"],
    )
    exported = onnx.load(whole)
    whole.unlink()
    args.onnx.write_bytes(pack(exported).SerializeToString(deterministic=True))
    unpack(args.onnx)
    print(f"{args.onnx}: {args.onnx.stat().st_size} bytes, {len(exported.graph.node)} nodes")


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of right/count, in percent (Wilson 1927)."""
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return 100 * (middle - half), 100 * (middle + half)


def measure(args: argparse.Namespace) -> None:
    """Run the packed file on unseen test images and write the record."""
    import onnxruntime

    from edge.sources.demo_weights import unpack

    session = onnxruntime.InferenceSession(unpack(args.onnx).SerializeToString(), providers=["CPUExecutionProvider"])
    training = json.loads(args.training.read_text())
    first = fifth = 0
    for index in range(args.images):
        rgb, label = network_image("test", index, 0)
        data = ((rgb.astype(np.float32) - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)[None]
        ranked = np.argsort(-session.run(None, {"data": data})[0][0], kind="stable")
        first += int(ranked[0] == label)
        fifth += int(label in ranked[:5])
    figures = {
        "images": args.images,
        "split": "test",
        "seed": 0,
        "top1": round(100 * first / args.images, 2),
        "top1_wilson95": [round(v, 2) for v in wilson(first, args.images)],
        "top5": round(100 * fifth / args.images, 2),
        "top5_wilson95": [round(v, 2) for v in wilson(fifth, args.images)],
        "onnxruntime": onnxruntime.__version__,
    }
    record = {
        "note": "a demo network, trained on rendered images; its figures say nothing about ImageNet",
        "file": args.onnx.name,
        "file_sha256": hashlib.sha256(args.onnx.read_bytes()).hexdigest(),
        "file_bytes": args.onnx.stat().st_size,
        "weights": "float32 trained, stored and measured as float16",
        "float": figures,
        "training": training,
    }
    args.record.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    sys.exit(main())
