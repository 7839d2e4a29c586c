"""What every verb is: its options shown in sections, and one clear word on an option that it does not have."""

from __future__ import annotations

import re
import shlex

import click

from edge.errors import UsageError

# Title -> the options of it by their parameters' names, the most needed first; a verb shows those that it has.
SECTIONS = {
    "Model": "task weights onnx paddle mindspore network source_config labels name output scores model_file",
    "Images": "images image count label_offset calib calib_count seed",
    "Input": "featuremap mean std color resize letterbox fill crop interpolation",
    "Survey": "measure check_all page",
    "Limits": "max_drop max_latency min_agreement min_snr duration trial_timeout",
    "Measurement": "steps program_count compare frames threads seconds pipeline workers",
    "Compiler": "precision level compiler python timeout install any_memory",
    "Cluster": "cluster",
    "Server": "host http_port grpc_port at_once queue patience",
    "Board": "board port identity ssh_options to minutes",
    "Output": "top score out cpp no_wheels backend build_dir as_json verbose debug help",
}
WIDTH = 26  # of an option and its value; a longer one has a line of its own


class Verb(click.Command):
    """A command whose help is in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        options = {option.name: option for option in self.params if isinstance(option, click.Option)}
        if help_option := self.get_help_option(ctx):
            options["help"] = help_option  # click's own name of it is another
        for title, names in SECTIONS.items():
            rows = [option.get_help_record(ctx) for name in names.split() if (option := options.get(name))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl([(row[0].ljust(WIDTH), _plain(row[1])) for row in rows if row], col_max=WIDTH)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and tell of an option that has another name or belongs to another verb."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            self._refuse(ctx, error.option_name, given)
            raise

    def _refuse(self, ctx: click.Context, option: str, given: list[str]) -> None:
        from edge.sources.options import renamed

        words = [part for word in given for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
        at = words.index(option) + 1 if option in words else len(words)
        new, value = renamed(option.lstrip("-"), *words[at : at + 1])
        if new:
            words[at - 1 : at + 1] = [f"--{new}", *([value] if value else [])]
            command = f"{ctx.command_path} {shlex.join(words)}"
            raise UsageError(f"{option} is an old name", expected=f"its new one, --{new}", remedy=command)
        verbs = ctx.find_root().command
        assert isinstance(verbs, click.Group)  # noqa: S101 - edge itself
        named = {name: verbs.get_command(ctx, name) for name in verbs.list_commands(ctx)}
        owners = [
            name
            for name, command in named.items()
            if command and any(option in parameter.opts for parameter in command.params)
        ]
        if owners:
            yaml = {"--paddle": "paddle", "--mindspore": "mindspore"}.get(option, "")
            raise UsageError(
                f"{ctx.command_path} has no option {option}",
                expected=f"a verb that has it: {', '.join(owners)}",
                remedy=f"{ctx.command_path} MODEL.yaml, with '{yaml}: PATH' among its sources" if yaml else None,
            )


def _plain(text: str) -> str:
    """Return a help whose range is in words."""
    text = re.sub(r"x>=([\d.]+)\]$", r"at least \1]", text)
    return re.sub(r"([\d.]+)<=x<=([\d.]+)\]$", r"\1 to \2]", text)


class VerbGroup(click.Group):
    """A group of such commands."""

    command_class = Verb
