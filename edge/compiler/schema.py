"""What the compiler's YAML may hold: groups, keys, types and values, as data.

Source: hb_mapper 1.24.3 (horizon_nn 1.1.0, hbdk 3.49.15); behaviour measured with those versions.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen


@frozen
class Key:
    """One key of a group."""

    types: tuple[type, ...] = (str,)  #: YAML types that the compiler accepts.
    choices: tuple[str, ...] = ()  #: values that it accepts for each item; empty if any.
    #: how many items the value holds: ``one``, ``inputs`` (a ``;`` list, one item per input) or ``list`` (a ``;`` list
    #: of any length).
    each: str = "one"
    use_instead: str | None = None  #: for a deprecated key: what to do instead.


# The compiler turns these into text or a number itself.
COERCED = (str, int, float)

BITS = ("int8", "int16")
LAYOUTS = ("NHWC", "NCHW")
RT_TYPES = ("nv12", "yuv444", "yuv444_128", "featuremap", "rgb", "bgr", "gray", "yuv_bt601_full", "yuv_bt601_video")
TRAIN_TYPES = ("rgb", "bgr", "featuremap", "gray", "yuv444", "yuv444_128", "yuv_bt601_full", "yuv_bt601_video")
NORM_TYPES = ("no_preprocess", "data_mean", "data_scale", "data_mean_and_scale")
CALIBRATION_TYPES = ("default", "kl", "max", "mix", "load", "skip")
# Those that read no calibration data.
NO_DATA = ("load", "skip")
ITEM_BYTES = {"uint8": 1, "int8": 1, "int16": 2, "int32": 4, "float32": 4}

# Channels that an image type has; featuremap and the bt601 types are not checked by the compiler.
CHANNELS = {"rgb": 3, "bgr": 3, "yuv444": 3, "gray": 1}

# input_type_train -> input_type_rt, where they differ.
TRANSFORMS = {
    "rgb": ("bgr", "nv12", "yuv444", "yuv444_128"),
    "bgr": ("rgb", "nv12", "yuv444", "yuv444_128"),
    "yuv444": ("yuv444_128", "nv12"),
}

SOURCES = {
    "pyramid": ("nv12", "gray", "yuv_bt601_full"),
    "resizer": ("nv12", "gray", "yuv_bt601_full"),
    "ddr": ("rgb", "bgr", "yuv444", "yuv444_128", "gray", "featuremap"),
}

REMOVABLE = ("Quantize", "Transpose", "Dequantize", "Cast", "Reshape", "Softmax", "DequantizeFilter")

NODE_KEYS = ("ON", "InputType", "InputType0", "InputType1", "OutputType")

# Values of `optimization` besides the set_... forms and skip_<pass>, tried one by one on bayes-e.
OPTIMIZATIONS = (
    "asymmetric",
    "bias_correction",
    "quantize_softmax",
    "run_fast",
    "lstm_batch_last",
    "use_fastlut",
    "transpose_conv_input_hw",
    "transpose_softmax",
    "move_all_reshape_back",
    "move_all_transpose_back",
    "move_transpose_through_reshape",
)
OPTIMIZATION_FORMS = (
    r"set_all_nodes_(int8|int16|float32)",
    r"set_model_output_(int8|int16|float32)",
    r"set_[A-Za-z0-9]+_(input|output)_(int8|int16|float32|float)",
    r"skip_\w+",
)

GROUPS: Mapping[str, Mapping[str, Key]] = {
    "model_parameters": {
        "onnx_model": Key(),
        "caffe_model": Key(),
        "prototxt": Key(),
        "march": Key(),
        "layer_out_dump": Key((bool,), use_instead="hmct-debugger on the calibrated model"),
        "working_dir": Key(),
        "output_model_file_prefix": Key(),
        "output_nodes": Key(each="list"),
        "remove_node_type": Key(choices=REMOVABLE, each="list"),
        "remove_node_name": Key(each="list"),
        "set_node_data_type": Key((str, dict)),
        "node_info": Key((str, dict)),
        "debug_mode": Key(choices=("dump_calibration_data",)),
        "log_level": Key(use_instead="nothing: the compiler ignores it"),
    },
    "input_parameters": {
        "input_name": Key(COERCED, each="inputs"),
        "input_type_rt": Key(choices=RT_TYPES, each="inputs"),
        "input_space_and_range": Key(COERCED, choices=("regular", "bt601_video"), each="inputs"),
        "input_layout_rt": Key(COERCED, choices=LAYOUTS, each="inputs"),
        "input_type_train": Key(choices=TRAIN_TYPES, each="inputs"),
        "input_layout_train": Key(choices=LAYOUTS, each="inputs"),
        "input_shape": Key(COERCED, each="inputs"),
        "input_batch": Key(COERCED),
        "norm_type": Key(COERCED, choices=NORM_TYPES, each="inputs"),
        "mean_value": Key(COERCED, each="inputs"),
        "scale_value": Key(COERCED, each="inputs"),
    },
    "custom_op": {
        "custom_op_method": Key(choices=("register",)),
        "op_register_files": Key(each="list"),
        "custom_op_dir": Key(),
    },
    "calibration_parameters": {
        "cal_data_dir": Key(each="inputs"),
        "cal_data_type": Key(choices=tuple(ITEM_BYTES), each="inputs"),
        "calibration_type": Key(choices=CALIBRATION_TYPES),
        "max_percentile": Key(COERCED),
        "per_channel": Key((bool,)),
        "optimization": Key(each="list"),
        "run_on_cpu": Key(COERCED, each="list"),
        "run_on_bpu": Key(COERCED, each="list"),
        "enable_int16": Key((bool,), use_instead="node_info, or optimization: set_all_nodes_int16"),
        "preprocess_on": Key((bool,), use_instead="raw files in cal_data_dir"),
    },
    "compiler_parameters": {
        "compile_mode": Key(choices=("latency", "bandwidth", "balance")),
        "balance_factor": Key((int,)),
        "debug": Key((bool,)),
        "core_num": Key((int,)),
        "optimize_level": Key(choices=("O0", "O1", "O2", "O3")),
        "input_source": Key((dict,)),
        "max_time_per_fc": Key((int,)),
        "jobs": Key((int,)),
        "ability_entry": Key(),
        "advice": Key((int,)),
    },
}

# Keys whose empty text means that they are not set; for other keys empty text fails.
EMPTY_IS_UNSET = (
    "caffe_model",
    "cal_data_type",
    "input_batch",
    "input_layout_rt",
    "input_name",
    "input_shape",
    "input_space_and_range",
    "log_level",
    "norm_type",
    "optimization",
    "output_model_file_prefix",
    "output_nodes",
    "prototxt",
    "remove_node_name",
    "remove_node_type",
    "run_on_bpu",
    "run_on_cpu",
    "working_dir",
)
REQUIRED_GROUPS = ("model_parameters", "input_parameters")
REQUIRED_KEYS = {
    "model_parameters": ("march",),
    "input_parameters": ("input_type_rt", "input_type_train", "input_layout_train"),
}
