"""What the commands share: the console, error handling, help, progress bars."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from longstride.cli.minutes import MinuteLog
from longstride.errors import InputError, LongstrideError
from longstride.processes import is_first

__all__ = ["Command", "Group", "console", "errors", "handled", "progress_bars", "use_device"]

#: Results go to standard output; progress and errors to standard error, so that ``--json`` can be piped.
console = Console()
errors = Console(stderr=True)

P = ParamSpec("P")
R = TypeVar("R")


def _print_error(message: str) -> None:
    line = " ".join(message.split())  # as plain text: a path may hold what looks like markup
    errors.print(Text.assemble(("error:", "bold red"), f" {line}"), soft_wrap=True)


#: Any misuse of options. Some versions of typer bring their own click, so the class is found from typer's.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        usage: Any = error
        where = "" if usage.ctx is None else f" (see {usage.ctx.command_path} --help)"
        _print_error(usage.format_message() + where)
        raise typer.Exit(2) from None


def _without_type(parameters: list[Any]) -> list[Any]:
    """The parameters, the flags among them without ``<bool>`` beside their names in the help."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


class Command(TyperCommand):
    """A command whose help fills its lines: a line break in the docstring is a space."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands that tells misuse, such as an unknown option, in one line."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # shows the help
            return super().parse_args(ctx, args)
        with _usage_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _usage_errors():
            return super().invoke(ctx)


def handled(command: Callable[P, R]) -> Callable[P, R]:
    """Print a :class:`LongstrideError` as one line and exit with 2. Other errors are bugs and keep their traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LongstrideError as error:
            _print_error(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            errors.print("interrupted; nothing half-written was left behind")
            raise typer.Exit(130) from None

    return run


def use_device(name: str) -> str:
    """``name`` itself, if PyTorch can use it.

    Raises:
        InputError: no such device here.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {name!r} cannot be used here: {reason}") from None
    return name


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A function ``say(what, done, total)`` that draws a bar with the time left for every ``what``.

    Without a terminal every ``what`` is a line in the log when it begins, and a line every minute says how far it is.
    """
    if not is_first():
        yield lambda what, done, total: None
        return
    if not sys.stderr.isatty():
        with MinuteLog(lambda line: errors.print(line, highlight=False, markup=False, soft_wrap=True)) as log:
            yield log.say
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bars:
        tasks: dict[str, TaskID] = {}

        def say(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield say
