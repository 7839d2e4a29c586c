"""Patterns of node names in a recipe: what they stand for, and that a network they do not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.compiler.node_names import NodeNames, expanded, fits, moves, setting
from edge.errors import SpecError
from edge.graph.files import GraphFacts
from edge.specs import NodePrecision, Precision, load_precision
from tests.test_mapper_render import DEPTHS, graph_of, render_into

WIDE_OUT, WIDE_IN = NodePrecision("BPU", outputs="int16"), NodePrecision("BPU", inputs="int16")


def names(*nodes: str) -> NodeNames:
    return NodeNames.of(GraphFacts("data", (1, 3, 64, 64), "prob", (1, 10), 11, 6, nodes, 1000))


@given(st.lists(st.text("ab/._*[]?(", min_size=1, max_size=4), min_size=2, max_size=4))
def test_only_the_star_stands_for_something(parts: list[str]) -> None:
    bare = [part.replace("*", "") for part in parts]
    assert fits("*".join(bare), "".join(bare))
    assert fits("*".join(bare), "/any/[text]".join(bare))
    assert not fits("".join(bare) + "x", "".join(bare) + "y")


def test_a_pattern_becomes_the_nodes_that_it_fits_in_graph_order() -> None:
    found = names("/a/Pow", "/a/ReduceMean_1", "/b/Conv", "/c/norm/Pow")
    recipe = Precision("r", nodes={"*/Pow": WIDE_OUT, "/b/Conv": WIDE_IN})
    assert list(expanded(recipe, found).nodes.items()) == [
        ("/a/Pow", WIDE_OUT),
        ("/b/Conv", WIDE_IN),
        ("/c/norm/Pow", WIDE_OUT),
    ]


def test_a_node_s_own_name_counts_more_than_a_pattern() -> None:
    recipe = Precision("r", nodes={"/a/Pow": WIDE_IN, "*/Pow": WIDE_OUT})
    assert dict(expanded(recipe, names("/a/Pow", "/b/Pow")).nodes) == {"/a/Pow": WIDE_IN, "/b/Pow": WIDE_OUT}


def test_a_recipe_without_patterns_stays_as_it_is() -> None:
    recipe = Precision("r", nodes={"/not/there": WIDE_OUT})  # the rules speak of a name that is not there
    assert expanded(recipe, names("/a/Pow")) is recipe


def test_a_pattern_that_fits_nothing_is_another_networks_recipe() -> None:
    recipe = Precision("convnext", nodes={"*/Pow": WIDE_OUT, "*/ReduceMean_1": WIDE_IN})
    with pytest.raises(SpecError, match=r"recipe convnext: no node of this network fits '\*/ReduceMean_1'"):
        expanded(recipe, names("/a/Pow", "/b/Conv"))


def test_what_a_pattern_puts_on_the_bpu_is_known_before_the_compile() -> None:
    recipe = Precision("r", nodes={"*/Softmax": WIDE_IN})
    assert setting(recipe, "/a/Softmax") == WIDE_IN
    assert setting(recipe, "/a/Conv") is None
    assert moves(recipe, "/a/Softmax", "Softmax")
    assert not moves(recipe, "/a/Other", "Softmax")


@pytest.mark.parametrize("member", DEPTHS)
def test_the_recipe_of_the_family_fits_every_depth(tmp_path: Path, member: str) -> None:
    result = render_into(tmp_path, f"ConvNeXt_{member}", "convnext")
    text = yaml.safe_load((tmp_path / result.yaml).read_text())["model_parameters"]["node_info"]
    norms = [name for name in graph_of(f"ConvNeXt_{member}").node_names if name.endswith("/Pow")]
    assert [name for name in text if name.endswith("/Pow")] == norms
    assert len(text) == 2 * len(norms) == result.nodes
    assert load_precision("convnext").calibration.per_channel
