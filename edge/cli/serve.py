"""``edge serve``: answer requests of other programs and of a browser."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.display import examples
from edge.cli.options import FROM_0, Number, build_dir_option, complete_models, debug_option, option
from edge.cli.program import backend_line, backend_option, find_program, open_program
from edge.cli.verb import Verb
from edge.errors import BackendMissing, UsageError
from edge.runtime.machine import ON_BOARD
from edge.runtime.open import isolated
from edge.runtime.program import Program, locate

if TYPE_CHECKING:
    from edge.serve.server import Addresses

EXAMPLES = (
    "edge serve ConvNeXt_atto",
    "edge serve build/ConvNeXt_atto yolox_bundle --threads 2 --queue 16 --host 0.0.0.0",
)
PACKAGES = "grpcio httptools prometheus-client protobuf starlette uvicorn uvloop"  # the extra "serve"
RESTARTS = 3  # in a row of a runtime whose process ends
PORT = click.IntRange(0, 65535)


@click.command("serve", cls=Verb, epilog=examples(EXAMPLES))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_models)
@build_dir_option
@option("--host", "Address to listen on; 0.0.0.0 is for everybody who reaches this machine.", default="127.0.0.1")
@option("--http-port", "Port of HTTP and of the page; 0 takes a free one.", PORT, 8000, "N")
@option("--grpc-port", "Port of gRPC; 0 takes a free one.", PORT, 8001, "N")
@option("--threads at_once", "Requests of a model that are computed at once.", click.IntRange(1, 64), 1)
@option("--queue", "Requests of a model that wait at most; more are refused.", FROM_0, 64)
@option("--timeout patience", "Seconds that a request may take, waiting included.", Number(min=0.001), 10.0)
@backend_option
@debug_option
def serve_command(
    *,
    models: tuple[str, ...],
    build_dir: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    at_once: int,
    queue: int,
    patience: float,
    backend: str,
) -> None:
    """Serve each MODEL by the Open Inference Protocol (KServe v2), over HTTP and gRPC, until Ctrl-C.

    MODEL is a build folder, a bundle, a .bin, a portable ONNX, or a name: ConvNeXt_atto means
    build/ConvNeXt_atto. A browser finds a page to try the models, and Prometheus finds /metrics.
    """
    try:
        import uvloop

        from edge.serve.model import Model, Models
        from edge.serve.queue import Queue
        from edge.serve.server import Server
    except ModuleNotFoundError as error:
        raise BackendMissing(f"{error.name} is not installed", remedy=f"pip install {PACKAGES}") from error
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    paths = {name: find_program(name, build_dir) for name in models}
    names = [_name(path) for path in paths.values()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if len(paths) < len(models):
        again = next(name for name, count in Counter(models).items() if count > 1)
        raise UsageError(f"{again} is given twice", expected="each model once")
    if twice:
        raise UsageError(f"two models are called {twice[0]}", expected="different names", remedy="rename a folder")
    if http_port == grpc_port != 0:
        raise UsageError(f"port {http_port} for both protocols", expected="a port for each", remedy="--grpc-port N")
    with ExitStack() as stack:
        served = []
        for name, path in zip(names, paths.values(), strict=True):
            chosen = _quickest(backend, locate(path))
            net, note = open_program(path, chosen, threads=at_once, changeable=False, restarts=RESTARTS)
            stack.enter_context(net)
            waiting = Queue(at_once, queue, patience)
            stack.callback(waiting.close)
            served.append(Model(name, net, waiting))
            click.echo(f"{name}  {backend_line(net)}")
            if note:
                click.echo(f"note  {note}")

        def started(addresses: Addresses) -> None:
            click.echo(f"HTTP  {addresses.http}   for clients, and a page for your browser")
            click.echo(f"gRPC  {addresses.grpc}")
            click.echo("Ctrl-C stops it when what it has taken is answered")

        server = Server(Models(served), host=host, http_port=http_port, grpc_port=grpc_port)
        uvloop.run(server.run(started))
        click.echo("stopped")


def _quickest(backend: str, program: Program) -> str:
    """Return ``portable`` for ``auto`` where there is no BPU: the simulators before it take seconds an image."""
    on_board = any(isolated(name, program) for name in ON_BOARD)
    return "portable" if backend == "auto" and not on_board and "portable" in program.files else backend


def _name(path: Path) -> str:
    path = path.resolve()
    return path.name if path.is_dir() else path.stem
