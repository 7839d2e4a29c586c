from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge.errors import ImageError, SpecError
from edge.images.preprocess import (
    arrange,
    calibration_image,
    decode,
    network_input,
    network_input_from_nv12,
    nv12_to_yuv444,
    placement,
    resize_crop,
    rgb_to_nv12,
    unletterbox,
    yuv444_to_rgb_float,
)
from edge.images.resample import resample
from edge.specs import Preprocess
from edge.specs.schema import Color, Layout

EVEN = st.integers(1, 12).map(lambda half: 2 * half)
IMAGES = st.tuples(EVEN, EVEN).flatmap(lambda size: arrays(np.uint8, (*size, 3)))
# Full range, truncated: as the compiler encodes them.
COLOURS = {
    (0, 0, 0): (0, 128, 128),
    (255, 255, 255): (255, 128, 128),
    (127, 127, 127): (126, 128, 128),
    (255, 0, 0): (76, 84, 255),
    (0, 255, 0): (149, 43, 21),
    (0, 0, 255): (29, 255, 107),
}


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth gradients under noise: something that a wrong filter visibly changes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], axis=-1)
    return np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)


def flat(color: tuple[int, int, int], height: int = 4, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


# The canvas of networks whose size no program can have


@pytest.mark.parametrize("size", [(112, 112), (299, 299), (225, 225), (33, 64), (126, 118)])
@pytest.mark.parametrize("resize", [300, None])
@pytest.mark.parametrize(("color", "layout"), [("rgb", "NCHW"), ("bgr", "NHWC")])
def test_the_canvas_holds_the_networks_own_pixels(
    tmp_path: Path, size: tuple[int, int], resize: int | None, color: Color, layout: Layout
) -> None:
    rule = Preprocess(crop=size, resize=resize, color=color, layout=layout)
    rgb, (height, width) = image(341, 400), size
    seen = resize_crop(rgb, rule)
    assert seen.shape == (*rule.canvas, 3)
    assert seen.flags.c_contiguous
    sides = size if resize is None else (resize, 351)
    place = (0, 0) if resize is None else (round((resize - height) / 2), round((351 - width) / 2))
    plain = resample(rgb, sides, (*place, *size), "bicubic")
    np.testing.assert_array_equal(seen[:height, :width], plain)
    # Behind NV12, too: what is filled up gives no chroma to the network's own pixels.
    even = -(-height // 2) * 2, -(-width // 2) * 2
    alone = np.pad(plain, ((0, even[0] - height), (0, even[1] - width), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(
        nv12_to_yuv444(rgb_to_nv12(seen), rule.canvas)[:height, :width],
        nv12_to_yuv444(rgb_to_nv12(alone), even)[:height, :width],
    )
    # A calibration file brings the canvas back.
    (tmp_path / "one.bin").write_bytes(arrange(seen.astype("<f4"), rule).tobytes())
    np.testing.assert_array_equal(calibration_image(tmp_path / "one.bin", rule), seen)
    assert network_input(seen, rule).shape == rule.input_shape


# NV12


@pytest.mark.parametrize(("rgb", "yuv"), COLOURS.items())
def test_primary_colours_have_the_compilers_bytes(rgb, yuv):
    nv12 = rgb_to_nv12(flat(rgb))
    assert nv12.dtype == np.uint8
    assert nv12.shape == (24,)
    assert nv12.tolist() == [yuv[0]] * 16 + [yuv[1], yuv[2]] * 4


def test_video_range_is_not_what_we_make():
    """The common mistake: OpenCV's I420 is video range, and lifts black to 16."""
    i420 = cv2.cvtColor(flat((0, 0, 0)), cv2.COLOR_RGB2YUV_I420)
    assert int(i420.ravel()[0]) == 16
    assert int(rgb_to_nv12(flat((0, 0, 0)))[0]) == 0


@given(IMAGES)
@settings(deadline=None)
def test_nv12_is_the_float_formula_truncated(rgb):
    height, width = rgb.shape[:2]
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = (0.299 * r + 0.587 * g + 0.114 * b).astype(np.uint8)
    u = (-0.169 * r - 0.331 * g + 0.5 * b + 128)[::2, ::2].astype(np.uint8)
    v = (0.5 * r - 0.419 * g - 0.081 * b + 128)[::2, ::2].astype(np.uint8)
    nv12 = rgb_to_nv12(rgb)
    planes = nv12.reshape(height * 3 // 2, width)
    assert np.array_equal(planes[:height], y)
    assert np.array_equal(planes[height:, ::2], u)
    assert np.array_equal(planes[height:, 1::2], v)


@given(IMAGES)
@settings(deadline=None)
def test_chroma_is_the_top_left_pixels_alone(rgb):
    """The other three pixels of a block change Y but neither U nor V."""
    size = rgb.shape[0] * rgb.shape[1]
    other = rgb.copy()
    other[1::2] ^= 0xFF
    other[:, 1::2] ^= 0xFF
    assert np.array_equal(rgb_to_nv12(other)[size:], rgb_to_nv12(rgb)[size:])


@given(st.tuples(EVEN, EVEN).flatmap(lambda s: arrays(np.uint8, (s[0] * 3 // 2, s[1]))))
@settings(deadline=None)
def test_yuv444_repeats_chroma_and_loses_nothing(nv12):
    height, width = nv12.shape[0] * 2 // 3, nv12.shape[1]
    yuv = nv12_to_yuv444(nv12, (height, width))
    assert yuv.shape == (height, width, 3)
    for i in (0, 1):
        for j in (0, 1):
            assert np.array_equal(yuv[i::2, j::2, 1:], yuv[::2, ::2, 1:])
    back = np.concatenate([yuv[..., 0].ravel(), yuv[::2, ::2, 1:].ravel()])
    assert np.array_equal(back, nv12.ravel())


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_flat_colour_survives_the_round_trip(color):
    """Truncation costs up to one level in Y, U and V; the decoder's largest gain is 1.7722."""
    yuv = nv12_to_yuv444(rgb_to_nv12(flat(color)), (4, 4))
    error = yuv444_to_rgb_float(yuv) - np.array(color, np.float32)
    assert np.abs(error).max() < 1 + 1.7722 + 0.5
    assert np.ptp(error.reshape(-1, 3), axis=0).max() == 0


def test_the_decoder_is_the_nodes_matrix_without_clipping():
    grey = yuv444_to_rgb_float(np.array([[[0, 128, 128], [100, 128, 128], [255, 128, 128]]], np.uint8))
    assert grey.dtype == np.float32
    assert grey[0].tolist() == [[0.0] * 3, [100.0] * 3, [255.0] * 3]
    red, blue = yuv444_to_rgb_float(np.array([[76, 84, 255], [29, 255, 107]], np.uint8))
    assert red == pytest.approx([76 + 1.4017 * 127, 76 + 0.3437 * 44 - 0.7142 * 127, 76 - 1.7722 * 44], abs=1e-3)
    assert blue == pytest.approx([29 - 1.4017 * 21, 29 - 0.3437 * 127 + 0.7142 * 21, 29 + 1.7722 * 127], abs=1e-3)
    assert yuv444_to_rgb_float(np.array([255, 255, 255], np.uint8)).max() > 255


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((3, 4, 3), np.uint8), "3x4"),
        (np.zeros((4, 3, 3), np.uint8), "4x3"),
        (np.zeros((4, 8, 3), np.uint8)[:, ::2], "contiguous"),
    ],
)
def test_rgb_to_nv12_refuses(rgb, message):
    with pytest.raises(ImageError, match=message):
        rgb_to_nv12(rgb)


def test_nv12_to_yuv444_refuses_wrong_buffers():
    with pytest.raises(ImageError, match="23 x uint8"):
        nv12_to_yuv444(np.zeros(23, np.uint8), (4, 4))
    with pytest.raises(ImageError, match="24 x float32"):
        nv12_to_yuv444(np.zeros(24, np.float32), (4, 4))
    with pytest.raises(ImageError, match="3x8"):
        nv12_to_yuv444(np.zeros(36, np.uint8), (3, 8))


# Run by the compiler's own Python: encode with the vendor's classes, print whether the bytes agree.
VENDOR = textwrap.dedent(
    """
    import json, sys
    import numpy as np
    from horizon_tc_ui.data.transformer import NV12ToYUV444Transformer, RGB2NV12Transformer
    data = np.load(sys.argv[1])
    rgb, nv12, yuv = data["rgb"], data["nv12"], data["yuv"]
    encode = RGB2NV12Transformer(data_format="HWC").run_transform
    theirs, raw = encode(rgb), encode(rgb.astype(np.float32)).ravel()
    decoded = NV12ToYUV444Transformer(rgb.shape[:2], "HWC").run_transform(theirs)
    off = np.abs(raw.astype(int) - nv12)
    differing = [int((theirs.ravel() != nv12).sum()), int((decoded != yuv).sum())]
    print(json.dumps([*differing, float(off.mean()), int(off.max())]))
    """
)


@pytest.mark.compiler
def test_nv12_equals_the_vendors_own_conversion(toolchain, tmp_path):
    levels = np.linspace(0, 255, 32).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(128, 256, 3)
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    rgb = np.concatenate([cube.repeat(2, axis=0)[:, :128].repeat(2, axis=1), cube, noise])
    nv12 = rgb_to_nv12(rgb)
    np.savez(tmp_path / "data.npz", rgb=rgb, nv12=nv12, yuv=nv12_to_yuv444(nv12, rgb.shape[:2]))
    (tmp_path / "vendor.py").write_text(VENDOR, encoding="utf-8")
    lines: list[str] = []
    done = toolchain.run_python(
        [str(tmp_path / "vendor.py"), str(tmp_path / "data.npz")],
        cwd=tmp_path,
        timeout=120,
        on_line=lines.append,
        mounts=[tmp_path],
    )
    assert done.returncode == 0, lines
    differing, decoded_differing, mean_of_raw, max_of_raw = json.loads(lines[-1])
    assert (differing, decoded_differing) == (0, 0)
    # From raw float32 files, as in calibration, the vendor's arithmetic is float32.
    assert mean_of_raw < 0.005
    assert max_of_raw <= 1


# The float networks' inputs


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_network_input_orders_and_normalizes(color, layout):
    pre = Preprocess(crop=(32, 32), resize=32, color=color, layout=layout, mean=(10, 20, 30), std=(2, 4, 8))
    data = network_input(flat((50, 100, 150), 32, 32), pre)
    assert data.shape == pre.input_shape
    assert data.dtype == np.float32
    pixel = data[0, :, 5, 7] if layout == "NCHW" else data[0, 5, 7]
    rgb = (50, 100, 150) if color == "rgb" else (150, 100, 50)
    assert pixel.tolist() == [(value - m) / s for value, m, s in zip(rgb, pre.mean, pre.std, strict=True)]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_input_behind_nv12_is_near_the_plain_one(color):
    pre = Preprocess(crop=(64, 64), resize=64, color=color, mean=(0, 0, 0), std=(1.5, 1.5, 1.5))
    smooth = cv2.resize(image(8, 8), (64, 64), interpolation=cv2.INTER_CUBIC)
    plain, behind = network_input(smooth, pre), network_input_from_nv12(rgb_to_nv12(smooth), pre)
    assert behind.shape == plain.shape
    assert np.abs(plain - behind).mean() < 6
    swapped = network_input_from_nv12(rgb_to_nv12(smooth[..., ::-1].copy()), pre)
    assert np.abs(plain - swapped).mean() > 20


def test_network_input_refuses_another_size():
    with pytest.raises(ImageError, match="224, 224, 3"):
        network_input(flat((0, 0, 0), 32, 32), Preprocess())


# Resize and crop


def pillow_like(line: np.ndarray, size: int, name: str) -> np.ndarray:
    """Antialiased resampling of one line, straight from its definition, in float and unrounded."""
    kernels = {
        "bilinear": (lambda t: max(0.0, 1 - abs(t)), 1.0),
        "bicubic": (
            lambda t: (
                1.5 * abs(t) ** 3 - 2.5 * t * t + 1 if abs(t) < 1 else -0.5 * abs(t) ** 3 + 2.5 * t * t - 4 * abs(t) + 2
            ),
            2.0,
        ),
        "area": (lambda t: 1.0 if -0.5 < t <= 0.5 else 0.0, 0.5),
    }
    kernel, support = kernels[name]
    scale = len(line) / size
    stretch = max(1.0, scale)
    out = []
    for i in range(size):
        center = (i + 0.5) * scale
        low = max(0, int(center - support * stretch + 0.5))
        high = min(len(line), int(center + support * stretch + 0.5))
        weights = [kernel((j - center + 0.5) / stretch) for j in range(low, high)]
        out.append(sum(w * line[j] for w, j in zip(weights, range(low, high), strict=True)) / sum(weights))
    return np.array(out)


@given(st.integers(1, 90), st.integers(1, 40), st.sampled_from(["bilinear", "bicubic", "area"]), st.integers(0, 99))
@settings(deadline=None)
def test_resample_is_pillows_filter(length, size, name, seed):
    line = np.random.default_rng(seed).integers(0, 256, length).astype(np.uint8)
    across = resample(line[None, :, None].repeat(3, axis=2), (1, size), (0, 0, 1, size), name)
    down = resample(line[:, None, None].repeat(3, axis=2), (size, 1), (0, 0, size, 1), name)
    want = np.clip(pillow_like(line.astype(float), size, name), 0, 255)
    for got in (across[0, :, 1], down[:, 0, 2]):
        assert np.abs(got - want).max() <= 0.5 + 1e-4


def test_halves_round_up_as_in_pillow():
    line = np.array([0, 1, 2, 3], np.uint8)[None, :, None].repeat(3, axis=2)
    assert resample(line, (1, 2), (0, 0, 1, 2), "area")[0, :, 0].tolist() == [1, 3]


def test_a_window_is_a_part_of_the_whole():
    rgb = image(61, 97)
    whole = resample(rgb, (40, 64), (0, 0, 40, 64), "bicubic")
    assert np.array_equal(resample(rgb, (40, 64), (3, 11, 32, 32), "bicubic"), whole[3:35, 11:43])


def test_a_huge_image_is_filtered_in_parts():
    rgb = np.full((64, 9000, 3), 77, np.uint8)
    assert (resample(rgb, (32, 32), (0, 0, 32, 32), "bilinear") == 77).all()


@given(
    st.integers(20, 150),
    st.integers(20, 150),
    st.sampled_from(["bilinear", "bicubic", "area", "nearest"]),
    st.sampled_from([32, 45, None]),
    st.tuples(*[st.integers(0, 255)] * 3),
)
@settings(deadline=None, max_examples=60)
def test_a_flat_image_stays_flat(height, width, name, resize, color):
    pre = Preprocess(crop=(32, 32), resize=resize, interpolation=name)
    out = resize_crop(flat(color, height, width), pre)
    assert out.shape == (32, 32, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert (out == np.array(color, np.uint8)).all()


@pytest.mark.parametrize("upright", [True, False])
def test_crop_starts_where_torchvision_starts(upright):
    """96x131 with the shorter side kept: the long margin 131-64 = 67 halves to 33.5, and 34 is even."""
    rgb = image(131, 96) if upright else image(96, 131)
    out = resize_crop(rgb, Preprocess(crop=(64, 64), resize=96))
    want = rgb[34:98, 16:80] if upright else rgb[16:80, 34:98]
    assert np.array_equal(out, want)


def test_half_margins_round_to_even():
    """97-64 = 33 halves to 16.5, and 16 is even."""
    rgb = image(96, 97)
    assert np.array_equal(resize_crop(rgb, Preprocess(crop=(64, 64), resize=96)), rgb[16:80, 16:80])


def test_the_long_side_is_cut_not_rounded():
    """100x199 to 64: int(127.36) = 127 columns; the flat right half begins at the same place in both."""
    rgb = image(100, 199)
    want = resample(rgb, (64, 127), (0, round(63 / 2), 64, 64), "bicubic")
    assert np.array_equal(resize_crop(rgb, Preprocess(crop=(64, 64), resize=64)), want)


def test_stretching_keeps_the_whole_image():
    rgb = np.zeros((50, 200, 3), np.uint8)
    rgb[:, :100] = 200
    out = resize_crop(rgb, Preprocess(crop=(64, 32), resize=None, interpolation="area"))
    assert (out[:, :15] == 200).all()
    assert (out[:, 17:] == 0).all()


def test_shrinking_is_antialiased():
    """A pattern of one-pixel stripes becomes grey, with every filter."""
    rgb = np.zeros((256, 256, 3), np.uint8)
    rgb[:, ::2] = 255
    for name in ("bilinear", "bicubic", "area", "nearest"):
        out = resize_crop(rgb, Preprocess(crop=(32, 32), resize=32, interpolation=name))
        assert np.abs(out.astype(int) - 128).max() <= 8, name  # the filter is cut off at the border
    naive = cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_NEAREST)
    assert np.abs(naive.astype(int) - 128).max() > 100


def test_resize_crop_matches_golden_values():
    """Pinned from Pillow 12.3 (bicubic, 37x53 to 48 on the shorter side, centre 32x32)."""
    out = resize_crop(image(37, 53, seed=7), Preprocess(crop=(32, 32), resize=48))
    assert (int(out.sum()), out[0, 0].tolist(), out[31, 31].tolist(), out[16, 9].tolist()) == GOLDEN


GOLDEN = (299806, [109, 29, 36], [160, 249, 96], [122, 109, 57])


def test_resize_crop_refuses_other_arrays():
    with pytest.raises(ImageError, match="float64"):
        resize_crop(np.zeros((8, 8, 3)), Preprocess())


# Decoding


def encoded(rgb: np.ndarray, ending: str = ".png") -> bytes:
    done, data = cv2.imencode(ending, rgb[..., ::-1] if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb)
    assert done
    return data.tobytes()


def test_decode_gives_rgb(tmp_path):
    rgb = image(9, 12)
    (tmp_path / "a.png").write_bytes(encoded(rgb))
    assert np.array_equal(decode(tmp_path / "a.png"), rgb)
    assert np.array_equal(decode(encoded(rgb, ".bmp")), rgb)


def test_decode_makes_three_channels_of_8_bits():
    grey = image(6, 8)[..., 0]
    assert np.array_equal(decode(encoded(grey)), grey[..., None].repeat(3, axis=2))
    bgra = np.dstack([image(6, 8), np.full((6, 8), 9, np.uint8)])
    assert np.array_equal(decode(encoded(bgra)), bgra[..., 2::-1])
    deep = grey.astype(np.uint16) << 8
    assert np.array_equal(decode(encoded(deep)), grey[..., None].repeat(3, axis=2))


def test_decode_turns_images_as_exif_says():
    jpeg = encoded(cv2.resize(image(4, 4), (32, 16)), ".jpg")
    # Orientation 6 (turn clockwise), in the smallest EXIF segment that says so.
    tiff = b"II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
    assert np.array_equal(decode(turned), np.rot90(decode(jpeg), -1))


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_decode_refuses_a_file_cut_short(ending, keep):
    data = encoded(image(64, 64), ending)
    with pytest.raises(ImageError, match=r"cat\.x"):
        decode(data[: int(len(data) * keep)], "cat.x")


def test_a_jpeg_cut_short_is_noticed_behind_its_thumbnail():
    thumbnail, jpeg = encoded(image(16, 16), ".jpg"), encoded(image(64, 64), ".jpg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = jpeg[:2] + segment + jpeg[2:]
    assert decode(whole + b"trailing bytes of a camera").shape == (64, 64, 3)
    with pytest.raises(ImageError, match="incomplete"):
        decode(whole[:-200])


def test_progressive_jpeg_is_whole_too():
    bgr = image(64, 64)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    assert decode(data).shape == (64, 64, 3)
    with pytest.raises(ImageError):
        decode(data[:-100])


def test_decode_names_what_it_cannot_read(tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    with pytest.raises(ImageError, match=r"notes\.jpg"):
        decode(tmp_path / "notes.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg is empty"):
        decode(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        decode(tmp_path / "absent.jpg")


def test_runs_without_what_only_a_pc_has():
    """The board has numpy, OpenCV and the small base dependencies."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"onnx", "onnxruntime", "onnxsim", "torch", "PIL", "jinja2"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import edge.images, edge.images.preprocess
"""
    root = str(Path(__file__).resolve().parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})


# Letterbox


def trainers_letterbox(rgb: np.ndarray, size: tuple[int, int], where: str, fill: int) -> np.ndarray:
    """YOLOX's ``preproc`` (corner) and ultralytics' ``LetterBox`` (center), transcribed."""
    height, width = rgb.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    if where == "corner":
        padded = np.full((*size, 3), fill, np.uint8)
        scaled = cv2.resize(rgb, (int(width * ratio), int(height * ratio)), interpolation=cv2.INTER_LINEAR)
        padded[: int(height * ratio), : int(width * ratio)] = scaled
        return padded
    new = round(width * ratio), round(height * ratio)
    rest = (size[1] - new[0]) / 2, (size[0] - new[1]) / 2
    scaled = cv2.resize(rgb, new, interpolation=cv2.INTER_LINEAR) if rgb.shape[1::-1] != new else rgb
    top, bottom = round(rest[1] - 0.1), round(rest[1] + 0.1)
    left, right = round(rest[0] - 0.1), round(rest[0] + 0.1)
    return cv2.copyMakeBorder(scaled, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(fill,) * 3)


SIZES = st.tuples(st.integers(2, 160), st.integers(2, 160))


@given(size=SIZES, input_size=SIZES, where=st.sampled_from(["corner", "center"]), fill=st.integers(0, 255))
@settings(deadline=None)
def test_letterbox_is_the_trainers(size, input_size, where, fill) -> None:
    ratio = min(input_size[0] / size[0], input_size[1] / size[1])
    if min(int(side * ratio) for side in size) < 1:
        return  # the trainers fail
    rgb = image(*size)
    pre = Preprocess(crop=input_size, letterbox=where, fill=fill)
    own = resize_crop(rgb, pre)
    assert own.shape == (*pre.canvas, 3)
    assert own.flags.c_contiguous
    crop = own[: input_size[0], : input_size[1]].astype(int)
    # OpenCV's exact interpolation against its fast one.
    assert np.abs(crop - trainers_letterbox(rgb, input_size, where, fill)).max() <= 1


def test_a_letterboxed_image_of_the_inputs_size_is_itself() -> None:
    rgb = image(384, 640)
    for where in ("corner", "center"):
        assert (resize_crop(rgb, Preprocess(crop=(384, 640), letterbox=where)) == rgb).all()


def test_a_sliver_keeps_one_pixel() -> None:
    for where in ("corner", "center"):
        assert resize_crop(image(2, 900), Preprocess(crop=(64, 64), letterbox=where)).shape == (64, 64, 3)


@pytest.mark.parametrize("interpolation", ["bicubic", "area", "nearest"])
def test_other_interpolations_of_a_letterboxed_image_are_pillows(interpolation: str) -> None:
    rgb = image(90, 120)
    pre = Preprocess(crop=(32, 64), letterbox="corner", interpolation=interpolation)
    crop = resize_crop(rgb, pre)
    assert (crop[:32, :42] == resample(rgb, (32, 42), (0, 0, 32, 42), interpolation)).all()
    assert (crop[:, 42:] == 114).all()


LETTERBOXED = [Preprocess(crop=(96, 128), letterbox=where) for where in ("corner", "center")]
CROPPED = [Preprocess(crop=(96, 96), resize=112), Preprocess(crop=(96, 128), resize=None)]


@pytest.mark.parametrize("pre", LETTERBOXED + CROPPED)
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64)])
def test_boxes_go_back_to_the_image(pre: Preprocess, size: tuple[int, int]) -> None:
    """A bright rectangle is found on the input, and its box put back is the one that was drawn."""
    rgb = np.zeros((*size, 3), np.uint8)
    drawn = np.array([size[1] * 3 // 8, size[0] * 3 // 8, size[1] * 5 // 8, size[0] * 6 // 8])
    rgb[drawn[1] : drawn[3], drawn[0] : drawn[2]] = 255
    seen = resize_crop(rgb, pre)[..., 0]
    rows, columns = (np.flatnonzero((seen > 150).any(axis=axis)) for axis in (1, 0))
    found = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    pixel = max(size[0] / placement(size, pre).size[0], size[1] / placement(size, pre).size[1])
    assert np.abs(unletterbox(found, size, pre) - drawn).max() <= max(1.0, pixel)


def test_boxes_are_cut_at_the_images_border() -> None:
    pre = Preprocess(crop=(64, 64), letterbox="center")
    box = np.array([[-9.0, -9.0, 99.0, 99.0]], np.float32)
    assert unletterbox(box, (30, 60), pre).tolist() == [[0, 0, 60, 30]]


def test_letterbox_stands_alone() -> None:
    pre = Preprocess(letterbox="corner")
    assert (pre.resize, pre.interpolation, pre.fill) == (None, "bilinear", 114)
    for wrong in ({"letterbox": "corner", "resize": 256}, {"fill": 3}, {"letterbox": "corner", "fill": 256}):
        with pytest.raises(SpecError):
            Preprocess(**wrong)
