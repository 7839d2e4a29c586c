"""The bundle's C++: the same bytes in, the same numbers out as Python's, on a libdnn whose programs Python executes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from attrs import evolve

from edge.detect import Boxes, decode
from edge.errors import UsageError
from edge.folder.metadata import FILE, read_metadata, write_metadata
from edge.images.preprocess import decode as read_image
from edge.images.preprocess import resize_crop, rgb_to_nv12, unletterbox
from edge.pipeline.bundle import bundle
from edge.pipeline.cpp import sources
from edge.runtime import load
from edge.specs import Preprocess
from edge.specs.detector import Detector, Scale
from edge.specs.schema import Input
from edge.specs.schema import Output as Value
from tests.dnn_server import F32, S8, S16, S32, Output, serving, serving_net
from tests.fabricated import make_build, save_photo

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "tests" / "cpp"
ARM = "aarch64-linux-gnu-g++"
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", '-DBUNDLE=".."')
OPENCV = ("-isystem", "/usr/include/opencv4")
LIBRARIES = ("-lopencv_imgcodecs", "-lopencv_imgproc", "-lopencv_core")

pytestmark = pytest.mark.skipif(
    None in (shutil.which("g++"), shutil.which("cmake"))
    or not Path("/usr/include/opencv4/opencv2/imgcodecs.hpp").exists(),
    reason="no g++, CMake or OpenCV for C++ (Debian packages g++, cmake, libopencv-dev)",
)


def compiled(compiler: str, *arguments: str | Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} (Debian package {compiler.replace('++', '++-aarch64-linux-gnu')})")
    done = subprocess.run([compiler, *FLAGS, *OPENCV, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def libdnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libdnn whose programs are executed at the other end of $DNN_SOCKET."""
    folder = tmp_path_factory.mktemp("libdnn")
    compiled("g++", "-shared", "-fPIC", "-I", ROOT / "edge" / "cpp", HERE / "libdnn.cpp", "-o", folder / "libdnn.so")
    return folder


@pytest.fixture(scope="session", params=["separate", "fused"])
def nv12(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that writes the NV12 of images; ``fused`` multiplies and adds in one step, as compilers do on ARM."""
    fused = request.param == "fused"
    if fused and " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor can't multiply and add in one step")
    path = tmp_path_factory.mktemp("nv12") / "nv12"
    flags = ("-mfma", "-ffp-contract=fast") if fused else ()
    compiled("g++", *flags, "-I", ROOT / "edge" / "cpp", HERE / "nv12.cpp", "-o", path, *LIBRARIES)
    return path


def make(folder: Path, libdnn: Path, program: Path, target: Path) -> Path:
    """Compile a program of a bundle, or of the tests against a bundle's sources."""
    cpp = folder / "cpp"
    compiled("g++", "-I", cpp, program, cpp / "net.cpp", "-o", target, f"-L{libdnn}", "-ldnn", *LIBRARIES)
    return target


def run(
    program: Path, libdnn: Path, *arguments: object, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(program), *map(str, arguments)],
        cwd=cwd,
        timeout=120,
        env={**os.environ, "LD_LIBRARY_PATH": str(libdnn), **env},
        capture_output=True,
    )


# --- compiled for the board and for a PC


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sources of a classifier's bundle and of a detector's."""
    base = tmp_path_factory.mktemp("sources")
    return {
        "classify": bundle(make_build(base / "classify", program=b"program"), base / "one", cpp=True).path / "cpp",
        "detect": bundle(detector_build(base / "detect", DFL), base / "two", cpp=True).path / "cpp",
    }


@pytest.mark.parametrize("compiler", ["g++", ARM])
@pytest.mark.parametrize("name", ["classify", "detect"])
def test_the_sources_compile_without_a_warning(both: dict[str, Path], compiler: str, name: str, tmp_path: Path) -> None:
    for file in (f"{name}.cpp", "net.cpp"):
        compiled(compiler, "-c", both[name] / file, "-o", tmp_path / "object.o")


def test_the_boards_own_headers_are_taken_where_they_are(both: dict[str, Path], tmp_path: Path) -> None:
    own = (ROOT / "edge" / "cpp" / "libdnn.h").read_text()
    declared = own[own.index("#include <cstdint>") : own.index("#endif")]
    (tmp_path / "dnn").mkdir()
    (tmp_path / "dnn" / "hb_sys.h").write_text("#pragma once\n")
    (tmp_path / "dnn" / "hb_dnn.h").write_text(f"#pragma once\n{declared}")
    compiled("g++", "-isystem", tmp_path, "-c", both["classify"] / "net.cpp", "-o", tmp_path / "object.o")
    (tmp_path / "dnn" / "hb_dnn.h").write_text(f"#pragma once\n{declared.replace('sysMem[4]', 'sysMem[1]')}")
    with pytest.raises(AssertionError, match="is not that of the RDK X5"):
        compiled("g++", "-isystem", tmp_path, "-c", both["classify"] / "net.cpp", "-o", tmp_path / "object.o")


@pytest.mark.skipif(shutil.which("clang-format-14") is None, reason="no clang-format-14")
def test_the_sources_are_formatted(both: dict[str, Path]) -> None:
    files = [path for folder in (*both.values(), HERE) for path in folder.iterdir() if path.suffix in (".h", ".cpp")]
    style = f"--style=file:{ROOT / 'edge' / 'cpp' / '.clang-format'}"
    subprocess.run(["clang-format-14", style, "--dry-run", "-Werror", *map(str, files)], check=True)


# --- the same NV12

WAYS = {
    "crop": Preprocess(crop=(64, 64), resize=73, interpolation="bilinear"),
    "bicubic": Preprocess(crop=(96, 96), resize=110, interpolation="bicubic"),
    "stretch": Preprocess(crop=(57, 75), resize=None, interpolation="area"),  # and a larger canvas
    "nearest": Preprocess(crop=(224, 224), resize=230, interpolation="nearest"),
    "corner": Preprocess(crop=(96, 160), letterbox="corner"),
    "center": Preprocess(crop=(160, 96), letterbox="center", fill=7),
    "center bicubic": Preprocess(crop=(160, 96), letterbox="center", interpolation="bicubic"),
}


def of_cpp(nv12: Path, pre: Preprocess, files: Sequence[Path]) -> np.ndarray:
    letterbox = {None: 0, "corner": 1, "center": 2}[pre.letterbox]
    interpolation = {"bilinear": 0, "bicubic": 1, "area": 2, "nearest": 2}[pre.interpolation]
    numbers = (*pre.crop, *pre.canvas, pre.resize or 0, letterbox, pre.fill, interpolation)
    done = subprocess.run([str(nv12), *map(str, (*numbers, *files))], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(len(files), -1)


def different(nv12: Path, pre: Preprocess, files: Sequence[Path]) -> int:
    """Return of how many images C++ and Python make different bytes."""
    made = of_cpp(nv12, pre, files)
    wanted = (rgb_to_nv12(resize_crop(read_image(file), pre)) for file in files)
    return sum(not np.array_equal(one, other) for one, other in zip(made, wanted, strict=True))


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of awkward sizes: noise, and every 8-bit grey."""
    folder, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(3)
    shapes = [(1, 1), (3, 500), (127, 65), (64, 64), (640, 33), (230, 230), (481, 333)]
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    images.append(np.repeat(np.arange(65536, dtype=np.uint8).reshape(256, 256)[..., None], 3, axis=2))
    files = [folder / f"{number}.png" for number in range(len(images))]
    for file, pixels in zip(files, images, strict=True):
        cv2.imwrite(str(file), pixels)
    return files


@pytest.mark.parametrize("name", WAYS)
def test_nv12_is_byte_for_byte_that_of_python(nv12: Path, odd_images: list[Path], name: str) -> None:
    assert different(nv12, WAYS[name], odd_images) == 0


def test_all_colours_become_the_same_nv12(nv12: Path, tmp_path: Path) -> None:
    """Every blue and green, with every fifth red; chroma is of each pixel, as every pixel is a block."""
    for red in range(0, 256, 5):
        colours = np.stack(np.meshgrid(np.arange(256), np.arange(256), [red], indexing="ij"), axis=-1)
        cv2.imwrite(
            str(tmp_path / f"{red}.bmp"), colours.reshape(256, 256, 3).astype(np.uint8).repeat(2, 0).repeat(2, 1)
        )
    way = Preprocess(crop=(512, 512), resize=None, interpolation="nearest")
    assert different(nv12, way, sorted(tmp_path.iterdir())) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "pre", [Preprocess(), Preprocess(crop=(416, 416), letterbox="corner")], ids=["crop", "letterbox"]
)
def test_500_photographs_become_the_same_nv12(nv12: Path, shared: Path, pre: Preprocess, tmp_path: Path) -> None:
    files = sorted((shared / "data" / "imagenet_val_500").glob("*.JPEG"))
    assert len(files) == 500
    assert different(nv12, pre, files) == 0


# --- a classifier


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("classifier")
    return bundle(make_build(base / "build" / "net", program=b"program"), base / "bundle", cpp=True).path


@pytest.fixture(scope="session")
def classify(classifier: Path, libdnn: Path) -> Path:
    """The bundle's program, made with CMake as its README says."""
    readme = (classifier / "README.txt").read_text()
    for command in ("cmake -S cpp -B cpp/build", "cmake --build cpp/build"):
        assert command in readme
        more = [f"-DDNN_LIBRARY={libdnn}/libdnn.so"] if "-S" in command else []
        subprocess.run([*command.split(), *more], cwd=classifier, check=True, capture_output=True)
    assert "  cpp/build/classify IMAGE.jpg\n" in readme
    return classifier / "cpp" / "build" / "classify"


@pytest.fixture(scope="session")
def outputs_of(classifier: Path, libdnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that writes the bundle's outputs as they are."""
    return make(classifier, libdnn, HERE / "outputs.cpp", tmp_path_factory.mktemp("outputs") / "outputs")


def photos(folder: Path, count: int = 10) -> list[Path]:
    return [save_photo(folder / f"photo {index}.jpg", index) for index in range(count)]


def test_ten_images_get_pythons_answers_and_scores_bit_for_bit(
    classifier: Path, classify: Path, outputs_of: Path, libdnn: Path, tmp_path: Path
) -> None:
    images = photos(tmp_path)
    with load(classifier, "portable") as net, serving_net(net):
        answers = run(classify, libdnn, "--json", "--top", 3, *images)
        scores = run(outputs_of, libdnn, "--bundle", classifier, *images)
        wanted = [net.classify(image, 3) for image in images]
        bits = b"".join(net.scores(image).tobytes() for image in images)
    assert answers.returncode == 0, answers.stderr
    found = [json.loads(line) for line in answers.stdout.splitlines()]  # libdnn's banner is not among them
    assert b"[BPU_PLAT]" in answers.stderr
    assert [line["image"] for line in found] == [str(image) for image in images]
    for line, labels in zip(found, wanted, strict=True):
        assert [entry["label"] for entry in line["labels"]] == [label for label, _ in labels]
        assert [entry["probability"] for entry in line["labels"]] == pytest.approx([p for _, p in labels], rel=1e-8)
    assert scores.stdout == bits
    # The next image is prepared while the last one is computed, and all memory goes back.
    assert b"at most 2 tasks at once; left: 0 tasks, 0 buffers" in answers.stderr


def test_the_guides_program_prints_the_best_classes(classifier: Path, libdnn: Path, tmp_path: Path) -> None:
    [code] = re.findall(r"^```cpp\n(.*?)^```$", (ROOT / "docs/guides/cpp.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "own.cpp").write_text(code)
    own = make(classifier, libdnn, tmp_path / "own.cpp", tmp_path / "own")
    photos(tmp_path, 1)[0].rename(tmp_path / "IMAGE.jpg")
    with load(classifier, "portable") as net, serving_net(net):
        shutil.copy(classifier / read_metadata(classifier / FILE).files["bin"].path, tmp_path)
        done = run(own, libdnn, cwd=tmp_path)
        best = net.classify(tmp_path / "IMAGE.jpg", 3)
    index = {label: place for place, label in enumerate(net.labels or ())}
    printed = [line for line in done.stdout.decode().splitlines() if line.startswith("class ")]
    assert printed == [f"class {index[label]}: {share:.3f}" for label, share in best]


def test_text_unreadable_images_and_raw_nv12(classifier: Path, classify: Path, libdnn: Path, tmp_path: Path) -> None:
    [image] = photos(tmp_path, 1)
    (tmp_path / "not.jpg").write_text("no image")
    (tmp_path / "short.nv12").write_bytes(bytes(100))
    raw = tmp_path / "raw.nv12"
    with load(classifier, "portable") as net, serving_net(net):
        net.nv12(image).tofile(raw)
        images = (tmp_path / "not.jpg", image, raw, tmp_path / "short.nv12")
        text = run(classify, libdnn, "--bundle", classifier, "--top", 1, *images)
        lines = run(classify, libdnn, "--bundle", classifier, "--json", *images)
        [(label, share)] = net.classify(image, 1)
    assert (text.returncode, lines.returncode) == (1, 1)
    line = f"  {100 * share:6.2f} %  {label}"
    assert text.stdout.decode().splitlines() == [str(image), line, str(raw), line]
    for reason in ("not.jpg can't be read as an image", "short.nv12 is not 6144 bytes of NV12"):
        assert reason in text.stderr.decode()
    first, second, third, fourth = (json.loads(line) for line in lines.stdout.splitlines())
    assert "error" in first
    assert "error" in fourth
    assert second["labels"] == third["labels"]
    assert len(second["labels"]) == 4


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("load", "failed with -6000014: compiled for another chip"),
        ("alloc", "hbSysAllocCachedMem failed with -6000130: out of memory"),
        ("infer", "hbDNNInfer failed with -6000001"),
        ("wait", "running the program failed with -6000008: timed out"),
    ],
)
def test_a_failed_call_ends_in_a_message_and_leaves_nothing(
    classifier: Path, classify: Path, libdnn: Path, tmp_path: Path, call: str, reason: str
) -> None:
    images = photos(tmp_path, 3)
    with load(classifier, "portable") as net, serving_net(net):
        done = run(classify, libdnn, "--bundle", classifier, *images, DNN_FAIL=call)
    assert (done.returncode, done.stdout) == (1, b"")
    assert reason in done.stderr.decode()
    assert call == "load" or b"left: 0 tasks, 0 buffers" in done.stderr


@pytest.mark.parametrize(
    "words", [(), ("--json",), ("--top", "0", "x.jpg"), ("--top", "many", "x.jpg"), ("--what", "x")]
)
def test_a_wrong_command_line_is_explained(
    classifier: Path, classify: Path, libdnn: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = run(classify, libdnn, *words)
    assert done.returncode == 2
    assert b"classify [--top 5] [--json] [--bundle DIR] IMAGE..." in done.stderr


QUANTIZED = {
    "int32, padded rows, scales of channels": Output(
        (1, 4, 3, 5), S32, (4 * 3 * 32, 3 * 32, 32, 4), (0.5, 0.1, 3e-5, 7.0), axis=1
    ),
    "int8, padded pixels, zero points": Output(
        (1, 3, 5, 6), S8, (3 * 5 * 8, 5 * 8, 8, 1), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (-7, 0, 1, 2, 3, 127), axis=3
    ),
    "int16, one scale": Output((1, 10), S16, (), (0.007,), axis=-1),
    "integers without scales": Output((2, 3), S32),
    "floats, padded": Output((1, 4, 3), F32, (4 * 16, 16, 4)),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_padded_integers_become_pythons_floats(
    classifier: Path, outputs_of: Path, libdnn: Path, tmp_path: Path, name: str
) -> None:
    from edge.runtime.quantization import dequantizer

    output, rng = QUANTIZED[name], np.random.default_rng(1)
    dtype = {F32: np.float32, S8: np.int8, S16: np.int16, S32: np.int32}[output.kind]
    values = (rng.normal(0, 1, output.shape) * (1 if output.kind == F32 else 40)).astype(dtype)
    rule = dequantizer(
        name, output.shape, np.dtype(dtype).name, scale=output.scales, zero_point=output.zeros, axis=output.axis
    )
    with serving((64, 64), [output], lambda _: [values]):
        done = run(outputs_of, libdnn, "--bundle", classifier, photos(tmp_path, 1)[0])
    assert done.returncode == 0, done.stderr
    assert done.stdout == rule(values).tobytes()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (Output((1, 4), S16, (), (0.1, 0.2, 0.3), axis=1), "has 3 scales, expected: one, or one per channel"),
        (Output((2, 4), S16, (0, 2)), "has no strides"),
        (Output((2, 4), F32, (8, 4)), "does not fit into its memory"),
    ],
)
def test_outputs_that_would_be_misread_are_refused(
    classifier: Path, outputs_of: Path, libdnn: Path, tmp_path: Path, output: Output, reason: str
) -> None:
    with serving((64, 64), [output], lambda _: []):
        done = run(outputs_of, libdnn, "--bundle", classifier, photos(tmp_path, 1)[0])
    assert done.returncode == 1
    assert reason in done.stderr.decode()


@pytest.mark.compiler
@pytest.mark.slow
def test_a_real_program_gives_pythons_scores(mobilenet: Path, shared: Path, libdnn: Path, tmp_path: Path) -> None:
    """On photographs, with the portable model that computes the .bin's integers."""
    made = bundle(mobilenet, tmp_path / "bundle", cpp=True).path
    images = sorted((shared / "data" / "imagenet_val_500").glob("*.JPEG"))[:10]
    dump = make(made, libdnn, HERE / "outputs.cpp", tmp_path / "outputs")
    with load(made, "portable") as net, serving_net(net):
        done = run(dump, libdnn, "--bundle", made, *images)
        assert done.stdout == b"".join(net.scores(image).tobytes() for image in images)


# --- a detector

SIZE = (96, 128)


def scale(stride: int, *, objectness: bool, anchors: tuple[tuple[float, float], ...] = ()) -> Scale:
    name = f"objectness_{stride}" if objectness else None
    return Scale(stride, f"boxes_{stride}", f"scores_{stride}", name, anchors=anchors)


YOLOX = Detector("yolox", 3, tuple(scale(stride, objectness=True) for stride in (8, 16)))
DFL = Detector("dfl", 5, tuple(scale(stride, objectness=False) for stride in (8, 16, 32)))
ANCHORS = Detector("anchors", 3, (scale(8, objectness=True, anchors=((10.0, 13.5), (33.0, 23.0))),))
LTRB = Detector("dfl", 2, (scale(16, objectness=False),), reg_max=1, nms=False)
CORNER, CENTER = (Preprocess(crop=SIZE, letterbox=where) for where in ("corner", "center"))


def detector_build(folder: Path, detector: Detector) -> Path:
    make_build(folder, program=b"program", names=tuple(f'class "{index}"' for index in range(detector.classes)))
    values = tuple(
        Value(name, (1, channels, SIZE[0] // one.stride, SIZE[1] // one.stride), "float32")
        for one in detector.scales
        for name, channels in detector.channels(one).items()
    )
    about = read_metadata(folder / FILE)
    pre = CORNER if detector.family == "yolox" else CENTER
    changes = evolve(
        about, preprocess=pre, task="detect", detector=detector, outputs=values, scores=None, classes=detector.classes
    )
    write_metadata(folder / FILE, changes)
    return folder


def answering(values: Sequence[Value]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a network of noise that depends on its input: some candidates are sure, many overlap."""

    def answer(nv12: np.ndarray) -> list[np.ndarray]:
        rng = np.random.default_rng(int(nv12.sum()))
        levels = {"boxes": (0.5, 0.8), "scores": (-2, 1.5), "objectness": (-0.5, 1.5)}
        return [rng.normal(*levels[v.name.partition("_")[0]], v.shape).astype(np.float32) for v in values]

    return answer


@pytest.mark.parametrize("detector", [YOLOX, DFL, ANCHORS, LTRB], ids=["yolox", "dfl", "anchors", "one to one"])
def test_boxes_are_those_of_python(detector: Detector, libdnn: Path, tmp_path: Path) -> None:
    build = detector_build(tmp_path / "build", detector)
    made, about = bundle(build, tmp_path / "bundle", cpp=True).path, read_metadata(build / FILE)
    detect = make(made, libdnn, made / "cpp" / "detect.cpp", tmp_path / "detect")
    images, answer = photos(tmp_path, 4), answering(about.outputs)
    raw = tmp_path / "raw.nv12"
    rgb_to_nv12(resize_crop(read_image(images[0]), about.preprocess)).tofile(raw)
    outputs = [Output(value.shape) for value in about.outputs]
    with serving(SIZE, outputs, answer):
        done = run(detect, libdnn, "--bundle", made, "--json", "--score", 0.3, *images, raw)
        text = run(detect, libdnn, "--bundle", made, "--score", 0.3, images[0])
        none = run(detect, libdnn, "--bundle", made, "--score", 1, images[0])
    assert done.returncode == 0, done.stderr
    *lines, input_line = (json.loads(line) for line in done.stdout.splitlines())

    def wanted(image: Path) -> Boxes:
        nv12 = rgb_to_nv12(resize_crop(read_image(image), about.preprocess))
        return decode(answer(nv12), [v.name for v in about.outputs], detector, size=SIZE, score=0.3)

    total = 0
    for line, image in zip(lines, images, strict=True):
        found = wanted(image)
        placed = unletterbox(found.boxes, read_image(image).shape[:2], about.preprocess)
        total += len(found)
        assert [entry["label"] for entry in line["boxes"]] == [f'class "{label}"' for label in found.labels]
        np.testing.assert_allclose([entry["score"] for entry in line["boxes"]], found.scores, rtol=1e-5)
        np.testing.assert_allclose([entry["box"] for entry in line["boxes"]], placed, atol=0.06)
    assert total > 20
    np.testing.assert_allclose([entry["box"] for entry in input_line["boxes"]], wanted(images[0]).boxes, atol=0.06)
    path, first, *_ = text.stdout.decode().splitlines()
    assert path == str(images[0])
    assert re.fullmatch(r'  0\.\d\d  class "\d"  \d+,\d+ to \d+,\d+', first)
    assert none.stdout.decode().splitlines() == [str(images[0]), "  nothing above a score of 1"]


def test_a_program_of_another_shape_is_refused(libdnn: Path, tmp_path: Path) -> None:
    made = bundle(detector_build(tmp_path / "b", LTRB), tmp_path / "bundle", cpp=True).path
    detect = make(made, libdnn, made / "cpp" / "detect.cpp", tmp_path / "detect")
    outputs = [Output((1, 6, 8, 4)), Output((1, 6, 8, 2))]  # NHWC
    with serving(SIZE, outputs, lambda _: [np.zeros(o.shape, np.float32) for o in outputs]):
        done = run(detect, libdnn, "--bundle", made, photos(tmp_path, 1)[0])
    assert done.returncode == 1
    assert b"output 0 is not 1x4x6x8: the program is not the one that this code was made for" in done.stderr
    with serving((64, 64), outputs, lambda _: []):
        done = run(detect, libdnn, "--bundle", made, photos(tmp_path, 1)[0])
    assert b"model.h is of another program" in done.stderr


# --- what edge bundle does


def test_models_that_the_code_cannot_run_are_refused(tmp_path: Path) -> None:
    about = read_metadata(make_build(tmp_path / "net", program=b"program") / FILE)
    without = {role: entry for role, entry in about.files.items() if role != "bin"}
    peaks = Detector("centernet", 2, (Scale(8, "a", "b", offsets="c"),))
    rows = (Value("a", (1, 4), "float32"), Value("b", (1, 4), "float32"))
    for change, reason in (
        ({"files": without}, "has no .bin"),
        ({"task": "raw"}, "gives raw outputs"),
        ({"inputs": (Input("a", (1, 3, 8, 8), image=True),) * 2}, "takes more or something else than an image"),
        ({"task": "detect", "detector": peaks}, "codes its boxes as centernet"),
        ({"outputs": rows}, "which output of net holds class scores is not plain: a float32 1x4, b float32 1x4"),
    ):
        with pytest.raises(UsageError, match=re.escape(reason)):
            sources(evolve(about, **change))


def test_the_scores_are_found_among_other_outputs(tmp_path: Path) -> None:
    about = read_metadata(make_build(tmp_path / "net", program=b"program") / FILE)
    outputs = (Value("map", (1, 8, 7, 7), "float32"), Value("scores", (1, 4, 1, 1), "float32"))
    assert b"kScoresOutput = 1;" in sources(evolve(about, outputs=outputs))["cpp/model.h"]


def test_a_received_name_cannot_become_code(tmp_path: Path) -> None:
    about = read_metadata(make_build(tmp_path / "net", program=b"program") / FILE)
    name = 'x";\n#error "'
    files = {**about.files, "bin": evolve(about.files["bin"], path=name)}
    header = sources(evolve(about, name=name, files=files))["cpp/model.h"].decode()
    assert "\n#error" not in header
    assert r'kProgram[] = "x\";\n#error \"";' in header


def test_a_bundle_with_cpp_is_replaced_by_one_without(tmp_path: Path) -> None:
    build, out = make_build(tmp_path / "build", program=b"program"), tmp_path / "out"
    bundle(build, out, cpp=True)
    with_cpp = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    bundle(build, out, cpp=True)
    assert with_cpp == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "cpp" / "mine.cpp").write_text("// the user's")
    bundle(build, out)
    assert [path.name for path in (out / "cpp").iterdir()] == ["mine.cpp"]
    (out / "cpp" / "mine.cpp").unlink()
    bundle(build, out, cpp=True)
    bundle(build, out)
    assert not (out / "cpp").exists()
    assert "cmake" not in (out / "README.txt").read_text()
