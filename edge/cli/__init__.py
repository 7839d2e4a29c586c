"""The command ``edge``: the only place that prints and exits."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

import click
from click.shell_completion import get_completion_class

from edge import __version__
from edge.cli.verb import Verb
from edge.errors import EdgeError

EXAMPLES = """\b
Examples:
  eval "$(edge completion bash)"
  edge completion zsh >> ~/.zshrc
  edge completion fish > ~/.config/fish/completions/edge.fish"""


@click.command("completion", cls=Verb, epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors.")
def completion_command(shell: str) -> None:
    """Print the completion script of SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the three that click brings
    click.echo(kind(cli, {}, "edge", "_EDGE_COMPLETE").source())


class LazyGroup(click.Group):
    """Look a verb up in a table, and import its module when it is used, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order in which a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        command = getattr(importlib.import_module(VERBS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)  # noqa: S101 - our own table
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the verbs, group by group."""
        width = max(map(len, VERBS))
        for title, verbs in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in verbs.items()])


UNEXPECTED = 3
INTERRUPTED = 130

# Title -> verb -> the module that holds it under the verb's name plus ``_command``, and its help in one line.
GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Every day": {
        "build": ("edge.cli.build", "Make a program for the board from MODEL, and check it."),
        "run": ("edge.cli.run", "Classify images with a finished program."),
        "eval": ("edge.cli.eval", "Measure accuracy after each step from float to program."),
        "report": ("edge.cli.report", "Write the report of a build, or compare two builds."),
        "models": ("edge.cli.models", "List the models that edge knows by name."),
        "doctor": ("edge.cli.doctor", "Check whether this machine can build."),
    },
    "Accuracy": {
        "diagnose": ("edge.cli.diagnose", "Find where accuracy is lost, and what helps."),
        "tune": ("edge.cli.tune", "Search the precision recipe that loses least."),
    },
    "Board": {
        "bundle": ("edge.cli.bundle", "Gather the files that the board needs."),
        "board": ("edge.cli.board", "Check, copy, measure and run on a board over SSH."),
        "selftest": ("edge.cli.selftest", "On the board: does MODEL run there and answer rightly?"),
        "bench": ("edge.cli.bench", "Measure speed on the machine where it is run."),
        "serve": ("edge.cli.serve", "Answer requests over HTTP and gRPC, and show a page."),
    },
    "Single stages of a build, in their order": {
        "export": ("edge.cli.build", "Write the float ONNX."),
        "simplify": ("edge.cli.build", "Make the ONNX ready for the BPU."),
        "check": ("edge.cli.build", "Show which nodes run on the BPU and which on the CPU."),
        "calibrate": ("edge.cli.build", "Write the calibration set."),
        "rewrite": ("edge.cli.build", "Write parts of the graph another way (some recipes)."),
        "equalize": ("edge.cli.build", "Scale channels to fit int8 (some recipes)."),
        "split": ("edge.cli.build", "Group channels by range for int8 (some recipes)."),
        "round": ("edge.cli.build", "Round weights so that errors cancel out (some recipes)."),
        "thresholds": ("edge.cli.build", "Choose thresholds by the network's answers (some recipes)."),
        "render": ("edge.cli.build", "Write and lint the compiler's mapper YAML."),
        "compile": ("edge.cli.build", "Compile the .bin."),
        "portable": ("edge.cli.build", "Translate the quantized model into standard ONNX."),
        "verify": ("edge.cli.build", "Prove the .bin equal to the quantized model."),
        "quantize": ("edge.cli.build", "Quantize with onnxruntime instead of the compiler."),
    },
    "Maintenance": {
        "toolchain": ("edge.cli.toolchain", "Install the compiler or a framework, or show them."),
        "lint": ("edge.cli.lint", "Check mapper YAMLs before the compiler reads them."),
        "import": ("edge.cli.importing", "Make a model YAML of hb_mapper's own YAML."),
        "completion": ("edge.cli", "Print the completion script of a shell."),
    },
}
VERBS = {verb: module for verbs in GROUPS.values() for verb, (module, _) in verbs.items()}

# module -> what its verbs leave behind when they are interrupted.
KEPT = {
    "edge.cli.build": "; finished stages are kept, and the same command continues from there",
    "edge.cli.tune": "; finished trials are kept, and the same command continues from there",
    "edge.cli.eval": "; the answers so far are kept, and the same command continues from there",
}


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  edge doctor  and  edge build ConvNeXt_atto",
)
@click.version_option(__version__, prog_name="edge")
def cli() -> None:
    """From a model name to a checked program for the RDK X5 board."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with 0, 1 (a known failure), 2 (wrong usage), 3 (unexpected) or 130."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _own_stderr()
    debug = "--debug" in arguments
    # A polite kill unwinds like Ctrl-C, so that children are stopped and half-written folders removed.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(arguments, prog_name="edge", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EdgeError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click makes the one of the other
        kept = KEPT.get(VERBS.get(next(iter(arguments), ""), ""), "")
        click.echo(f"interrupted{kept}", err=True)  # click itself has ended the line of ^C
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        click.echo(f"error: {_of_the_system(error)}", err=True)
        sys.exit(1)
    except MemoryError as error:
        if debug:
            raise
        click.echo(
            f"error: out of memory: {error}\nnext: take a smaller input, or a machine with more memory", err=True
        )
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        kind = type(error).__name__
        click.echo(
            f"error: unexpected {kind}: {error}\nnext: run it again with --debug to see where, "
            "and report it with that output",
            err=True,
        )
        sys.exit(UNEXPECTED)


def _of_the_system(error: OSError) -> str:
    """Return what the operating system refuses, and what to do about it."""
    name = str(error.filename or "")
    where = f"{name[:60]}…{name[-20:]}" if len(name) > 100 else name or "the output"
    remedies = {
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOSPC: "free some space",
        errno.ENOENT: "check the path, and that the folder that you are in still exists",
    }
    seen = f"{where}: {error.strerror or error}"
    remedy = remedies.get(error.errno or 0, "check the path and its permissions")
    return f"{seen}\nnext: {remedy}, or see more with --debug"


def _own_stderr() -> None:
    """Give Python's stderr a descriptor of its own, so that what libraries write to 2 can be kept from the terminal."""
    try:
        if sys.stderr.fileno() != 2:
            return
        sys.stderr.flush()
        copy = os.dup(2)
    except (OSError, ValueError, AttributeError):  # it is closed, or no file
        return
    sys.stderr = os.fdopen(copy, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
