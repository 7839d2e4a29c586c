# %% [markdown]
# # ConvNeXt_atto
#
# From an image to a label, step by step. The same cells run on the RDK X5 (Jupyter with the system's Python) and on a
# PC, where a simulator takes the place of the BPU; the third step says which one runs.
#
# The program is looked for beside this notebook (a bundle: `edge bundle ConvNeXt_atto`), else in
# `../build/ConvNeXt_atto` (a checkout: `edge build ConvNeXt_atto`).

# %% [markdown]
# ## 1. Memory

# %%
import sys

sys.path.insert(0, "lib")  # of a bundle: there its install.sh put edge
from edge.runtime.machine import ON_BOARD, machine, memory

print(machine(), *memory(), sep="\n")

# %% [markdown]
# ## 2. Imports

# %%
import shutil
import subprocess
from pathlib import Path

import numpy as np
from IPython.display import Image, display

from edge.images.preprocess import decode, nv12_to_yuv444, yuv444_to_rgb_float
from edge.runtime import load
from edge.runtime.annotated import annotate, png
from edge.runtime.bench import measure
from edge.runtime.scores import probabilities

MODEL = "ConvNeXt_atto"
IMAGE = None  # a file of yours, such as "cheetah.jpg"; None: one that edge renders
BACKEND = "auto"  # or hbm_runtime, hobot_dnn, bpu_infer_lib; hbdk_sim, quantized, portable on a PC
FOLDER = Path() if Path("metadata.json").exists() else Path("../build") / MODEL

# %% [markdown]
# ## 3. Load the program

# %%
net = load(FOLDER, BACKEND)
print(f"{net.info.model} runs on {net.backend} ({net.info.version})")
for entry in net.passed_over:
    print(f"    not on {entry.backend}: {entry.why}")
for tensor in (*net.info.inputs, *net.info.outputs):
    print(f"{tensor.name}: {'NV12' if tensor.nv12 else tensor.dtype} {tensor.shape}")

# %% [markdown]
# ## 4. Image to NV12
#
# Resized, cropped and encoded as the network was calibrated: packed, full range. Below is what the network sees, decoded
# from these bytes.

# %%
if IMAGE is None:
    from edge.images.demo import draw

    rgb, _ = draw("test", 0)
    if net.metadata.weights != "demo":
        print("A rendered image, whose classes only demo weights know: set IMAGE to a photograph.")
else:
    rgb = decode(Path(IMAGE))
nv12 = net.nv12(rgb)
print(f"{rgb.shape[1]}x{rgb.shape[0]} pixels → {nv12.size:,} bytes of NV12")
seen = yuv444_to_rgb_float(nv12_to_yuv444(nv12, net.preprocess.canvas))
display(Image(data=png(seen.clip(0, 255).astype(np.uint8))))

# %% [markdown]
# ## 5. Forward

# %%
scores = net.run(nv12)[0].reshape(-1)
print(scores.shape, scores.dtype)
print(scores[:10])

# %% [markdown]
# ## 6. Softmax and label
#
# `net.score_kind` says what the scores are: logits go through a softmax; those of a network that ends in Softmax or
# Sigmoid are probabilities already. Where it is None, nobody said so: the scores are shown as they are.

# %%
chances = probabilities(scores, net.score_kind)
best = np.argsort(-chances, kind="stable")[:5]
ranked = [(net.labels[i] if net.labels else str(i), float(chances[i])) for i in best]
for index, (label, chance) in zip(best, ranked):
    shown = f"{100 * chance:6.2f} %" if net.score_kind else f"{chance:8.4f}"
    print(f"{index:5d}  {shown}  {label}")

# %% [markdown]
# ## 7. The image with its labels

# %%
display(Image(data=png(annotate(rgb, ranked, bars=net.score_kind is not None))))

# %% [markdown]
# ## 8. Speed
#
# First through this notebook's own calls, then on the board with the vendor's `hrt_model_exec`.

# %%
for threads in (1, 4):
    with load(FOLDER, net.backend, threads=threads) as timed:
        run = measure(timed, [nv12], threads=threads, frames=200, limit=10)
    took = run.latency
    print(
        f"{threads} thread{'s' if threads > 1 else ' '}  {run.fps:9.2f} FPS, {took.p50:.3f} ms a frame (p50), "
        f"{took.p99:.3f} ms (p99), {took.frames} frames"
    )
net.close()

if net.backend not in ON_BOARD:
    print(f"\n{net.backend} runs on this machine's processor: this is not the board's speed.")
    print("On the board this cell goes on with hrt_model_exec perf.")
elif shutil.which("hrt_model_exec") is None:
    print("\nhrt_model_exec is not on PATH; it comes with the board's system image.")
else:
    program = FOLDER / net.metadata.files["bin"].path
    for threads in (1, 4):
        command = ["hrt_model_exec", "perf", "--model_file", str(program), "--frame_count", "200"]
        done = subprocess.run(
            [*command, "--thread_num", str(threads)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        told = [line for line in lines if line.startswith(("Thread number", "Average latency", "Frame rate"))]
        print("\n".join(told or lines[-20:]))
