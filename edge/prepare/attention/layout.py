"""What of an attention is written another way, and in which order.

Found in the times a layer that the compiler tells (hb_mapper 1.24.3, ``debug: True``): of what torch exports,
it lays several values out as pictures one element wide, or copies them head by head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import astuple, evolve, frozen

from edge.prepare.attention.fused import take_apart
from edge.prepare.attention.heads import close_shares, turn_keys
from edge.prepare.attention.matrices import as_matrices
from edge.prepare.attention.pools import pool_in_rows
from edge.prepare.attention.scales import into_weights
from edge.prepare.normal_form import has_branches, tidy

if TYPE_CHECKING:
    import onnx


@frozen
class Attention:
    """What was written another way.

    Attributes:
        fused: MatMul nodes that gave queries, keys and values in one, taken apart.
        pools: AveragePool nodes over tokens.
        scales: Mul or Div nodes whose number went into weights.
        keys: Transpose nodes of keys that come before the heads are taken apart now.
        matrices: Softmax nodes whose attention has values of three axes now.
        shares: Softmax nodes with a convolution behind them, without which the program is wrong.
    """

    fused: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(astuple(self))


def lay_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Attention]:
    """Return the model with its attention laid out for the BPU, or the model itself where nothing fits.

    A model whose nodes hold graphs of their own stays: they may read what would be gone.

    Args:
        model: a checked model of opset 10 or 11 whose shapes are inferred.
    """
    import onnx

    if has_branches(model.graph):
        return model, Attention()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    fused = take_apart(changed)
    changed = tidy(changed) if fused else changed  # what comes next goes by shapes
    done = Attention(
        fused=fused,
        pools=pool_in_rows(changed),
        scales=into_weights(changed),
        keys=turn_keys(changed),
    )
    changed = tidy(changed)
    done = evolve(done, matrices=as_matrices(changed))
    changed = tidy(changed)
    done = evolve(done, shares=close_shares(changed))
    return (tidy(changed), done) if done else (model, done)
