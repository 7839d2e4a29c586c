"""One-pattern nets: what the compiler fuses, and near misses that it does not.

``CASES`` maps a name to (body in ONNX text, pattern -> how often it is fused, shape of y).
"""

from __future__ import annotations

import onnx
import onnx.parser

_CONSTANTS = {
    "rt2": "float[1] {1.4142135}",
    "irt2": "float[1] {0.70710678}",
    "one": "float[1] {1.0}",
    "two": "float[1] {2.0}",
    "half": "float[1] {0.5}",
    "three": "float {3.0}",
    "zero": "float {0.0}",
    "six": "float {6.0}",
    "sixth": "float[1] {0.1666667}",
    "k0": "float[1] {0.044715}",
    "k1": "float[1] {0.7978845608}",
    "eps": "float[1] {0.000001}",
    "halves": "float[1,8,1,1] {0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5}",
    "epss": "float[1,8,1,1] {0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}",
    "rough_rt2": "float[1] {1.4142}",
    "rough_half": "float[1] {0.5001}",
    "rough_one": "float[1] {1.0001}",
    "rough_three": "float[1] {3.0001}",
    "rough_six": "float[1] {6.001}",
    "rough_sixth": "float[1] {0.1667}",
    "image": "int64[4] {1,8,8,8}",
    "image_rest": "int64[4] {0,-1,8,8}",
    "groups": "int64[5] {1,2,4,8,8}",
    "flat_groups": "int64[4] {1,2,4,64}",
    "grid": "int64[6] {1,2,2,2,8,8}",
    "large": "int64[4] {1,2,16,16}",
    "large_wrong": "int64[4] {1,4,8,16}",
    "cells": "int64[6] {1,8,4,2,4,2}",
    "small": "int64[4] {1,32,4,4}",
}


def net(body: str, shape: str = "1,8,8,8", opset: int = 11) -> onnx.ModelProto:
    """Return a checked model of x (1,8,8,8) → y; one statement a ``;``."""
    used = [f"{kind.split(' ')[0]} {name} = {kind.split(' ')[1]}" for name, kind in _CONSTANTS.items()]
    lines = "\n".join(part.strip() for part in body.split(";"))
    model = onnx.parser.parse_model(
        f'<ir_version: 6, opset_import: ["" : {opset}]>\n'
        f"net (float[1,8,8,8] x) => (float[{shape}] y) <{', '.join(used)}> {{\n{lines}\n}}"
    )
    reads = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in reads]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for index, node in enumerate(model.graph.node):
        node.name = f"/{node.op_type}_{index}"
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


_GELU = "d=Div(x,rt2); e=Erf(d); a=Add(e,one); m=Mul(x,a); y=Mul(m,half)"
_HARD = "a=Add(x,three); c=Clip(a,zero,six); "
_SIXTH = "<alpha=0.1666667,beta=0.5>"
_SIGMOID = "v=Sigmoid(x); "
_TANH = "p=Pow(x,three); q=Mul(p,k0); r=Add(x,q); s=Mul(r,k1); t=Tanh(s); u=Add(t,one); "
_NORM = (
    "m=ReduceMean<axes=[1],keepdims=1>(x); d=Sub(x,m); p=Pow(d,two);"
    "v=ReduceMean<axes=[1],keepdims=1>(p); a=Add(v,eps); s=Sqrt(a); y=Div(d,s)"
)
_SHUFFLE = "r=Reshape(x,groups); t=Transpose<perm=[0,2,1,3,4]>(r); y=Reshape(t,image)"
_CRD = "r=Reshape(x,grid); t=Transpose<perm=[0,1,4,2,5,3]>(r); y=Reshape(t,large)"
_CELLS = "r=Reshape(x,cells); t=Transpose<perm=[0,3,5,1,2,4]>(r); y=Reshape(t,small)"
_SQUARE, _LARGE, _SMALL = "1,8,8,8", "1,2,16,16", "1,32,4,4"

_TEXT: dict[str, tuple[str, dict[str, int]]] = {
    "gelu": (_GELU, {"gelu": 1}),
    "gelu, terms swapped": ("d=Div(x,rt2); e=Erf(d); a=Add(one,e); m=Mul(a,x); y=Mul(half,m)", {"gelu": 1}),
    "gelu, constant nodes": (
        "c=Constant<value=float[1] {1.4142135}>(); o=Identity(one);"
        "d=Div(x,c); e=Erf(d); a=Add(e,o); m=Mul(x,a); y=Mul(m,half)",
        {"gelu": 1},
    ),
    "gelu, a half per channel": (_GELU.replace("half", "halves"), {"gelu": 1}),
    "gelu, two in a row": (
        _GELU.replace("y=", "z=") + "; d2=Div(z,rt2); e2=Erf(d2); a2=Add(e2,one); m2=Mul(z,a2); y=Mul(m2,half)",
        {"gelu": 2},
    ),
    "gelu by a product": (_GELU.replace("Div(x,rt2)", "Mul(x,irt2)"), {}),
    "gelu, x halved first": ("d=Div(x,rt2); e=Erf(d); a=Add(e,one); h=Mul(x,half); y=Mul(h,a)", {}),
    "gelu, no half": ("d=Div(x,rt2); e=Erf(d); a=Add(e,one); y=Mul(x,a)", {}),
    "gelu, 1.4142": (_GELU.replace("rt2", "rough_rt2"), {}),
    "gelu, 0.5001": (_GELU.replace("half", "rough_half"), {}),
    "gelu, 1.0001": (_GELU.replace("one", "rough_one"), {}),
    "gelu by tanh": (_TANH + "h=Mul(x,half); y=Mul(h,u)", {"power": 1}),
    "hardswish": (_HARD + "m=Mul(x,c); y=Div(m,six)", {"hardswish": 1}),
    "hardswish, terms swapped": ("a=Add(three,x); c=Clip(a,zero,six); m=Mul(c,x); y=Mul(sixth,m)", {"hardswish": 1}),
    "hardswish, divided first": (_HARD + "d=Div(c,six); y=Mul(x,d)", {"hardswish": 1}),
    "hardswish, times a sixth first": (_HARD + "d=Mul(c,sixth); y=Mul(d,x)", {"hardswish": 1}),
    "hardswish by hardsigmoid": (f"c=HardSigmoid{_SIXTH}(x); y=Mul(c,x)", {"hardswish": 1, "hardsigmoid": 1}),
    "hardsigmoid": (f"y=HardSigmoid{_SIXTH}(x)", {"hardsigmoid": 1}),
    "hardswish by 0.2": ("c=HardSigmoid(x); y=Mul(c,x)", {"hardsigmoid": 1}),
    "hardswish, 3.0001": (_HARD.replace("three", "rough_three") + "m=Mul(x,c); y=Div(m,six)", {}),
    "hardswish, 6.001": (_HARD + "m=Mul(x,c); y=Div(m,rough_six)", {}),
    "hardswish, 0.1667": (_HARD + "m=Mul(x,c); y=Mul(m,rough_sixth)", {}),
    "hardswish, clipped at 3": ("a=Add(x,three); c=Clip(a,zero,three); m=Mul(x,c); y=Div(m,six)", {}),
    "hardsigmoid by clip": (_HARD + "y=Div(c,six)", {}),
    "swish": ("c=Sigmoid(x); y=Mul(c,x)", {"swish": 1}),
    "swish of something else": ("z=Relu(x); c=Sigmoid(z); y=Mul(c,x)", {}),
    "swish, sigmoid read twice": ("c=Sigmoid(x); m=Mul(c,x); y=Add(m,c)", {}),
    "mish": ("c=Softplus(x); d=Tanh(c); y=Mul(d,x)", {"mish": 1}),
    "mish by exp and log": ("a=Exp(x); b=Add(a,one); c=Log(b); d=Tanh(c); y=Mul(x,d)", {}),
    "rsqrt of a layernorm": (_NORM, {"rsqrt": 1}),
    "rsqrt, no epsilon": (_SIGMOID + "s=Sqrt(v); y=Div(x,s)", {"rsqrt": 1}),
    "rsqrt by reciprocal": (_SIGMOID + "a=Add(eps,v); s=Sqrt(a); y=Reciprocal(s)", {"rsqrt": 1}),
    "rsqrt, an epsilon per channel": (_SIGMOID + "a=Add(v,epss); s=Sqrt(a); y=Div(x,s)", {}),
    "rsqrt of a variable sum": (_SIGMOID + "a=Add(v,x); s=Sqrt(a); y=Div(x,s)", {}),
    "rsqrt, root as numerator": (_SIGMOID + "s=Sqrt(v); y=Div(s,x)", {}),
    "rsqrt by pow": (_SIGMOID + "a=Add(v,eps); s=Pow(a,half); y=Div(x,s)", {}),
    "power": ("y=Pow(x,three)", {"power": 1}),
    "power, exponent of one axis": ("y=Pow(x,two)", {}),
    "softmax": ("y=Softmax<axis=1>(x)", {"softmax": 1}),
    "softmax by exp": ("e=Exp(x); s=ReduceSum<axes=[1],keepdims=1>(e); y=Div(e,s)", {}),
    "shuffle": (_SHUFFLE, {"channel_shuffle": 1}),
    "shuffle, open axes": (_SHUFFLE.replace("image", "image_rest"), {"channel_shuffle": 1}),
    "shuffle, four axes": ("r=Reshape(x,flat_groups); t=Transpose<perm=[0,2,1,3]>(r); y=Reshape(t,image)", {}),
    "shuffle, wrong axes": (_SHUFFLE.replace("[0,2,1,3,4]", "[0,1,2,4,3]"), {}),
    "depth to space CRD": (_CRD, {"depth_to_space": 1}),
    "depth to space DCR": (_CRD.replace("[0,1,4,2,5,3]", "[0,3,4,1,5,2]"), {"depth_to_space": 1}),
    "depth to space, operator": ("y=DepthToSpace<blocksize=2>(x)", {"depth_to_space": 1}),
    "depth to space, wrong axes": (_CRD.replace("[0,1,4,2,5,3]", "[0,1,4,3,5,2]"), {}),
    "depth to space, wrong size": (_CRD.replace("large", "large_wrong"), {}),
    "space to depth": (_CELLS, {"space_to_depth": 1}),
    "space to depth, operator": ("y=SpaceToDepth<blocksize=2>(x)", {"space_to_depth": 1}),
    "space to depth, channels first": (_CELLS.replace("[0,3,5,1,2,4]", "[0,1,3,5,2,4]"), {}),
}


def _shape(name: str) -> str:
    if name.endswith("wrong size"):
        return "1,4,8,16"
    return _LARGE if name.startswith("depth") else _SMALL if name.startswith("space") else _SQUARE


CASES = {name: (body, fused, _shape(name)) for name, (body, fused) in _TEXT.items()}
