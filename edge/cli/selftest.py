"""``edge selftest``: on the board, whether a program runs there and answers rightly."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs
import click
from attrs import evolve

from edge.cli.board import show_checks
from edge.cli.display import examples
from edge.cli.options import output_options
from edge.cli.program import backend_line, find_program, program_argument
from edge.cli.verb import Verb
from edge.errors import EdgeError, GateError

if TYPE_CHECKING:
    from edge.board.findings import Check
    from edge.runtime.program import Program


@click.command("selftest", cls=Verb, epilog=examples(["edge selftest .", "edge selftest ConvNeXt_atto_bundle --json"]))
@program_argument
@output_options
def selftest_command(*, model: str, build_dir: Path, as_json: bool, verbose: bool) -> None:
    """Check this board, run MODEL's test image on its BPU, and give one verdict: PASS, or FAIL with exit code 1.

    MODEL is a bundle or a build folder; edge bundle and edge build put the test image and its answer there.
    """
    from edge.board.connection import Here
    from edge.board.findings import findings, program_versions
    from edge.board.probe import probe
    from edge.runtime.program import locate

    program = locate(find_program(model, build_dir))
    versions = program_versions(program.files["bin"]) if "bin" in program.files else None
    found = [*findings(probe(Here()), versions), *_runs(program)]
    # The vendor's tool is not needed here.
    found = [evolve(check, mark="warn") if check.name == "tool" and check.mark == "bad" else check for check in found]
    bad = [check.name for check in found if check.mark == "bad"]
    if as_json:
        click.echo(json.dumps({"passed": not bad, "findings": cattrs.unstructure(found)}, indent=2))
    else:
        show_checks(found, verbose=verbose)
    if bad:
        raise GateError(f"FAIL: {program.name}: {', '.join(bad)}")
    if not as_json:
        click.echo(f"PASS: {program.name} runs on this board's BPU and gives the answer that was built with it")


def _runs(program: Program) -> list[Check]:
    """Open the program, which compares its known answer on a board, and run it once more for the time."""
    from edge.board.findings import Check
    from edge.runtime import load
    from edge.runtime.answer import known_answer
    from edge.runtime.machine import ON_BOARD

    try:
        with load(program.path) as net:
            seen = backend_line(net)
            if net.backend not in ON_BOARD:
                why = "; ".join(one.why for one in net.passed_over if one.backend in ON_BOARD)
                return [
                    Check("backend", "bad", f"no BPU: {seen}: {why}", "run it on the board, with the system's Python")
                ]
            known = known_answer(program, net.info)
            if known is None:
                remedy = "build it again with this edge and the vendor's compiler"
                return [Check("answer", "bad", f"{seen}; no answer to compare with", remedy)]
            frame = known.given(net.info)
            begin = time.perf_counter()
            difference = known.difference(net.run(*frame))
            took = f"{(time.perf_counter() - begin) * 1e3:.1f} ms"
    except EdgeError as error:
        return [Check("answer", "bad", error.seen, error.remedy or "")]
    runtime = Check("backend", "ok", seen)
    if difference:
        return [runtime, Check("answer", "bad", difference, "restart the board, then try again")]
    return [runtime, Check("answer", "ok", f"the {known.source}, in {took}")]
