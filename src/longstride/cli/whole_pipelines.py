"""What ``longstride calibrate`` does with whole diffusers pipelines, and what the commands share about them."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from longstride.calibration import Calibration
from longstride.calibration.endpoint.settings import HELD_OUT, fitted_samples
from longstride.calibration.method import configured
from longstride.cli.budgeting import planned
from longstride.cli.call_options import CallOptions, call_options, taken_by
from longstride.cli.common import console, progress_bars, use_device
from longstride.cli.making import Wanted, check_settings, tell_of_journal, tell_of_plan
from longstride.cli.pipeline_errors import refusals
from longstride.cli.written import size_of
from longstride.errors import InputError, unknown
from longstride.files import check_writable
from longstride.processes import is_first, join, wait
from longstride.table import SolverTable

__all__ = ["PipelineOptions", "calibrate_whole", "fit_whole", "load_pipeline", "prompts_in"]

#: Libraries that draw bars while parts are loaded.
_LIBRARIES = ("diffusers", "transformers")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PipelineOptions:
    """What a pipeline is loaded and called with; see the options of the commands. None: the pipeline's own.

    Attributes:
        negative: Negative prompt.
        size: Width and height, written as ``512x512``.
        dtype: Precision.
        texts: Further arguments of the call, each written as ``key=value``.
    """

    negative: str | None
    size: str | None
    dtype: str
    texts: Sequence[str] | None = None

    @cached_property
    def call(self) -> CallOptions:
        """Size and further arguments of the call.

        Raises:
            InputError: an argument is not written as it should be, or is given twice.
        """
        size, found = size_of(self.size), call_options(self.texts)
        if twice := [name for name in size if name in found.names]:
            raise InputError(f"--size and --option {twice[0]} say the same thing: leave one of them out")
        return CallOptions({**size, **found.shared}, found.per_sample)

    def check(self, pipeline: Any, **others: Any) -> None:
        """Make sure that a pipeline takes all of it, and that nothing is missing.

        Args:
            pipeline: The pipeline.
            **others: The other arguments of the call by name; None for an argument that is not given.

        Raises:
            InputError: it does not take an argument, or needs another one.
        """
        given = [name for name, value in others.items() if value is not None]
        given += [] if self.negative is None else ["negative_prompt"]
        taken_by(pipeline, call_options(self.texts).names, [*given, *self.call.names])


def prompts_in(file: Path) -> list[str]:
    """The prompts of a text file, one per line, without empty lines and lines that begin with ``#``.

    Raises:
        InputError: the file cannot be read, or holds no prompt.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read prompts from {file}: {error}") from None
    if not (found := [line for line in lines if line and not line.startswith("#")]):
        raise InputError(f"{file} holds no prompts: one per line is expected")
    return found


@contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """Keep diffusers and transformers from drawing bars into a log."""
    loggings = [] if sys.stderr.isatty() else [import_module(f"{name}.utils.logging") for name in _LIBRARIES]
    shown = [logging for logging in loggings if logging.is_progress_bar_enabled()]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()


def load_pipeline(source: str, device: str, dtype: str) -> Any:
    """A diffusers pipeline from a folder or the hub, safetensors only.

    Raises:
        InputError: no such pipeline, or an unknown dtype.
    """
    from diffusers import DiffusionPipeline

    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    try:
        # Older versions of diffusers know the first name only, newer versions warn of it.
        name = "torch_dtype" if "torch_dtype (" in str(DiffusionPipeline.from_pretrained.__doc__) else "dtype"
        with _bars_on_terminals():
            pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True, **{name: _DTYPES[dtype]})
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"cannot load a pipeline from {source!r} ({type(error).__name__}: {reason})") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def calibrate_whole(wanted: Wanted, prompts: Path | None, options: PipelineOptions) -> Calibration:
    """Calibrate a pipeline and write its card; arguments and errors are those of :func:`fit_whole`."""
    result = fit_whole(wanted, prompts, options)
    if is_first():
        result.card.save(wanted.out)
    wait()
    shutil.rmtree(wanted.journal, ignore_errors=True)
    return result


def fit_whole(
    wanted: Wanted,
    prompts: Path | None,
    options: PipelineOptions,
    *,
    starts: Mapping[str, SolverTable] | None = None,
) -> Calibration:
    """Calibrate a pipeline; processes that a launcher started share the units.

    Args:
        wanted: What was asked for; the grid and the base solver are the pipeline's.
        prompts: File of the prompts; None: the pipeline takes none.
        options: What the pipeline is called with.
        starts: Further tables to start from.

    Raises:
        InputError: several settings at once, no such pipeline, or no prompts in the file.
    """
    from longstride.integrations.anatomy import takes
    from longstride.integrations.pipelines import calibrate_pipeline

    if wanted.many:
        raise InputError("a pipeline is calibrated for one number of calls and one guidance scale at a time")
    check_settings(wanted)
    nfe, guidance = wanted.nfes[0], wanted.guidances[0]
    texts = None if prompts is None else prompts_in(prompts)
    call = options.call
    check_writable(wanted.out)
    join(wanted.device)
    pipeline = load_pipeline(wanted.model, use_device(wanted.device), options.dtype)
    # Prompts and classes have defaults of their own in a calibration.
    own_choice: dict[str, Any] = {name: True for name in ("prompt", "class_labels") if name in takes(pipeline)}
    options.check(pipeline, **own_choice, guidance_scale=guidance)
    if wanted.budget is not None:
        plan = planned(wanted.budget, nfe, 1, lambda: _seconds_per_call(pipeline, nfe, texts, call.shared))
        tell_of_plan(plan, quiet=wanted.quiet)
        wanted = wanted.by(plan)
        wanted = replace(wanted, batch_size=wanted.batch_size or math.gcd(plan.fitted, plan.held_out, 8))
    samples, held_out = wanted.batch or fitted_samples(nfe), wanted.held_out or HELD_OUT
    own = configured(wanted.way, None, wanted.settings)
    if not wanted.quiet and is_first():
        what = f"{type(pipeline).__name__}: fitting {samples} samples and holding out {held_out}"
        known = wanted.budget is not None
        cost = (
            "" if known else wanted.way.cost(nfe, samples, held_out, own, 1)
        )  # a call of the pipeline counts one, guided or not
        what += f", {cost}" if cost else ""
        console.print(what, highlight=False)
        tell_of_journal(wanted.journal)
    given: dict[str, Any] = {**call.shared, **call.per_sample, **own_choice, "guidance_scale": guidance}
    further = dict(wanted.settings) | ({} if starts is None else {"starts": starts})
    if call.per_sample:
        further["per_sample"] = call.per_sample
    with progress_bars() as say, refusals(pipeline, given):
        return calibrate_pipeline(
            pipeline,
            nfe,
            prompts=texts,
            guidance_scale=guidance,
            negative_prompt=options.negative,
            samples=samples,
            held_out=held_out,
            batch_size=wanted.batch_size,
            seed=wanted.seed,
            options=call.shared,
            method=wanted.way,
            reference_steps=wanted.reference_steps,
            monitor=None if wanted.budget is None else wanted.monitor,
            journal=wanted.journal,
            progress=lambda done, total, what: say(what, done, total),
            **further,
        )


def _seconds_per_call(pipeline: Any, nfe: int, texts: Sequence[str] | None, shared: Mapping[str, Any]) -> float:
    """Seconds of a network call: those of an ordinary call of the pipeline for one sample, over its steps."""
    asked = {**shared, **({} if texts is None else {"prompt": texts[0]})}
    begin = time.perf_counter()
    pipeline(num_inference_steps=nfe, **asked)
    return (time.perf_counter() - begin) / nfe
