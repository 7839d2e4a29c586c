"""NV12 as the first step of a portable model: it takes the bytes that the board takes."""

from __future__ import annotations

import numpy as np

from edge.portable.graph import NHWC, Graph, Value

INPUT = "nv12"


def decode(graph: Graph, size: tuple[int, int]) -> Value:
    """Add YUV444 minus 128 from packed NV12; each chroma sample covers its 2x2 block.

    Args:
        graph: to add to; its input :data:`INPUT` is uint8, flat, H*W*3/2 values.
        size: (H, W), even.

    Returns:
        int8 range, logical (1, H, W, 3), stored NCHW.
    """
    height, width = size
    luma = height * width
    parts = []
    whole = graph.add("Cast", INPUT, to=1)
    y = graph.add("Slice", whole, *(graph.constant(np.array([n]), np.int64) for n in (0, luma)))
    parts.append(graph.reshape(y, (1, 1, height, width)))
    chroma = graph.add(
        "Slice", whole, *(graph.constant(np.array([n]), np.int64) for n in (luma, luma * 3 // 2))
    )
    # (H/2, W/2, 2) interleaved -> (2, H/2, 1, W/2, 1) -> repeated over the blocks
    planes = graph.add("Transpose", graph.reshape(chroma, (height // 2, width // 2, 2)), perm=[2, 0, 1])
    blocks = graph.reshape(planes, (2, height // 2, 1, width // 2, 1))
    repeated = graph.add(
        "Expand", blocks, graph.constant(np.array([2, height // 2, 2, width // 2, 2]), np.int64)
    )
    parts.append(graph.reshape(repeated, (1, 2, height, width)))
    joined = graph.add("Concat", *parts, axis=1)
    centred = graph.add("Sub", joined, graph.constant(128.0))
    return Value(centred, (1, height, width, 3), NHWC, -128, 127)
