# %% [markdown]
# # Float compared with quantized
#
# Run the same images through the exported float ONNX and through the quantized program: how far apart are the scores,
# and do both give the same answer? Runs on a PC, with a finished build in `../build`.

# %%
from pathlib import Path

import numpy as np

import edge
from edge.images import open_images, sample
from edge.images.preprocess import network_input, resize_crop

try:
    import matplotlib.pyplot as plt
except ImportError as error:
    raise ImportError("the plots need matplotlib: pip install matplotlib") from error

MODEL = "ConvNeXt_atto"
BACKEND = "portable"  # or hbdk_sim, quantized: slower, and they need the compiler
IMAGES = "demo:test"  # or your own folder; with class folders or labels.csv, Top-1 is measured too
COUNT = 100
FOLDER = Path() if Path("metadata.json").exists() else Path("../build") / MODEL

# %% [markdown]
# ## 1. Load both

# %%
import onnxruntime  # after edge, which turns its telemetry off

net = edge.load(FOLDER, BACKEND)
rule = net.preprocess
path = FOLDER / f"{net.metadata.name}.onnx"
if not path.exists():
    raise FileNotFoundError(f"{path.name} is not in {FOLDER}: a bundle has no float ONNX, use the build folder")
session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
source = session.get_inputs()[0].name
kind = "the board's own integers" if net.info.exact else "an approximation of the board's integers"
print(f"float:      {path.name} in onnxruntime {onnxruntime.__version__}")
print(f"quantized:  {net.info.model} on {net.backend}, {kind}")

# %% [markdown]
# ## 2. Run both on the same images

# %%
images = open_images(IMAGES, classes=net.labels or net.metadata.classes)
images = sample(images, COUNT)
labelled = images.labelled and (net.metadata.weights == "demo" or not IMAGES.startswith("demo"))
crops = [resize_crop(item.load(), rule) for item in images]
exact = np.stack([session.run(None, {source: network_input(rgb, rule)})[0].reshape(-1) for rgb in crops])
quantized = np.stack([net.scores(item.load()) for item in images])
print(images.description)

# %% [markdown]
# ## 3. Figures

# %%
norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(quantized, axis=1)
cosine = (exact * quantized).sum(axis=1) / norms
answers = exact.argmax(axis=1), quantized.argmax(axis=1)
print(f"images                 {len(images)}")
print(f"same Top-1 answer        {100 * np.mean(answers[0] == answers[1]):.2f} %")
print(f"cosine of the scores     {cosine.mean():.4f} in the mean, {cosine.min():.4f} at worst")
print(f"largest difference       {np.abs(exact - quantized).max():.4f} (scores span {np.ptp(exact):.4f})")
if labelled:
    truth = np.array([item.label for item in images])
    for name, answer in zip(("float", "quantized"), answers):
        print(f"Top-1 {name:<18} {100 * np.mean(answer == truth):.2f} %")
else:
    print("Top-1 of the labels      not measured: these weights do not know the labels of these images")

# %% [markdown]
# ## 4. Score by score
#
# Every dot is one class of one image; without loss all dots would lie on the line.

# %%
figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
rng = np.random.default_rng(0)
dots = rng.permutation(exact.size)[:20000]
axes.scatter(exact.ravel()[dots], quantized.ravel()[dots], s=9, alpha=0.4, linewidths=0, zorder=3)
ends = [min(exact.min(), quantized.min()), max(exact.max(), quantized.max())]
axes.plot(ends, ends, color="0.35", linewidth=0.8)
axes.set(xlabel="float score", ylabel="quantized score", title=net.info.model)
axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## 5. Image by image

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
left.hist(cosine, bins=30)
left.set(xlabel="cosine of float and quantized scores", ylabel="images", title="Similarity of an image's scores")
right.hist((quantized - exact).ravel(), bins=61)
right.set(xlabel="quantized - float", ylabel="scores", title="Difference of each score", yscale="log")
for axes in (left, right):
    axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## 6. The images with the largest differences


# %%
def name_of(index):
    """Return the class's name, shortened to fit above an image, or its index."""
    return net.labels[index].split(", ")[0][:24] if net.labels else str(index)


worst = np.argsort(cosine, kind="stable")[:4]
figure, columns = plt.subplots(1, len(worst), figsize=(2.6 * len(worst), 3.4), layout="constrained", squeeze=False)
for axes, index in zip(columns[0], worst):
    axes.imshow(crops[index])
    axes.axis("off")
    axes.set_title(
        f"cosine {cosine[index]:.4f}\nfloat: {name_of(answers[0][index])}\nquantized: {name_of(answers[1][index])}",
        fontsize=9,
    )
plt.show()
net.close()
