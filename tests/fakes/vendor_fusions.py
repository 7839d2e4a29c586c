"""Print what the compiler's own graph optimizer makes of each net: ``vendor_fusions.py FOLDER``.

Runs in the compiler's Python. One line of JSON a file: name and number of each operator.
"""

import collections
import json
import logging
import pathlib
import sys

logging.disable(logging.CRITICAL)

from horizon_nn.converter.optimizer.optimize import optimize  # noqa: E402
from horizon_nn.ir import load_model  # noqa: E402

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    nodes = optimize(load_model(str(path)).infer_shapes()).nodes
    print(json.dumps([path.stem, collections.Counter(node.op_type for node in nodes)]))
