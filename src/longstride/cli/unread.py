"""Options that a command would not read in a case: they are refused, because a user who gives one expects an effect."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from longstride.errors import InputError

__all__ = ["UNREAD", "Case", "Unread", "refuse_unread"]

#: What decides which options a command reads.
Case = Literal[
    "pipeline",
    "network",
    "card of a network",
    "no card",
    "one row",
    "cards only",
    "errors only",
    "outcome",
    "budget",
]


@dataclass(frozen=True)
class Unread:
    """Options that nothing reads in a case.

    Attributes:
        case: The case.
        options: Names of the command's parameters.
        why: What takes their place, after ``does nothing ``.
    """

    case: Case
    options: tuple[str, ...]
    why: str


_FOR_PIPELINES = Unread(
    "network",
    ("negative", "size", "dtype", "call_options"),
    "for a network: it is for whole pipelines (--pipeline, or prompts)",
)
#: By command. An option that is not named here is read in every case.
UNREAD: dict[str, tuple[Unread, ...]] = {
    "calibrate": (
        _FOR_PIPELINES,
        Unread(
            "pipeline",
            ("grid", "final"),
            "for a whole pipeline: its own scheduler chooses the levels",
        ),
        Unread("pipeline", ("solver",), "for a whole pipeline: its calibration starts from DDIM on its levels"),
        Unread("budget", ("batch", "held_out", "iterations", "rank", "method"), "beside --budget, which chooses them"),
    ),
    "recalibrate": (
        Unread(
            "network",
            ("prompts", "negative", "size", "dtype", "call_options"),
            "for the card of a network: it is for cards of whole pipelines",
        ),
    ),
    "sample": (
        _FOR_PIPELINES,
        Unread("pipeline", ("grid",), "for a whole pipeline: its own scheduler chooses the levels"),
        Unread("pipeline", ("label",), "for a whole pipeline: say --option class_labels=N"),
        Unread("pipeline", ("batch_size",), "for a whole pipeline: it is called for one sample at a time"),
        Unread("card of a network", ("solver", "grid"), "beside a card, which is a sampler with levels of its own"),
        Unread("no card", ("any_model",), "without --card"),
        Unread("one row", ("compare",), "for a whole pipeline without --card: there is nothing to compare"),
    ),
    "evaluate": (
        Unread(
            "network",
            ("negative", "size", "dtype", "call_options", "decoded"),
            "for a network: it is for whole pipelines (--pipeline, or --prompts)",
        ),
        Unread("pipeline", ("grid", "final"), "for a whole pipeline: its own scheduler chooses the levels"),
        Unread(
            "pipeline",
            ("calibration_samples", "substeps"),
            "for a whole pipeline: evaluate calibrates networks only; make a card with longstride calibrate, and "
            "measure it with --card",
        ),
        Unread("pipeline", ("batch_size",), "for a whole pipeline: it is called for one sample at a time"),
        Unread("pipeline", ("real",), "for a whole pipeline: its samples are compared with converged samples"),
        Unread("cards only", ("grid", "final"), "for cards alone: each has its own levels"),
        Unread("errors only", ("features", "real"), "without Fréchet distances (--dimensions 0)"),
        Unread("no card", ("any_model",), "without --card"),
    ),
    "poc": (
        Unread(
            "outcome",
            ("nfe", "today_sampler", "today_nfe", "quick", "guidance", "seed", "device", "samples"),
            "beside --from: the outcome was measured before",
        ),
    ),
}


def refuse_unread(ctx: Any, cases: Collection[Case]) -> None:
    """Make sure that the command reads every option that the user gave.

    Args:
        ctx: Context of the command.
        cases: The cases that hold.

    Raises:
        InputError: an option would not be read; the message says why.
    """
    flags = {parameter.name: max(parameter.opts, key=len) for parameter in ctx.command.params}
    for one in UNREAD[ctx.command.name]:
        given = [flags[name] for name in one.options if ctx.get_parameter_source(name).name != "DEFAULT"]
        if one.case in cases and given:
            verb = "does" if len(given) == 1 else "do"
            raise InputError(f"{' and '.join(given)} {verb} nothing {one.why}")
