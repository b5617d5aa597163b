"""What ``longstride evaluate`` does with whole diffusers pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from longstride.book import CardBook
from longstride.card import Card
from longstride.card_parts import ScheduleInfo
from longstride.cli.common import progress_bars, use_device
from longstride.cli.drawing_pipelines import Caller
from longstride.cli.pipeline_source import PipelineSampler, PipelineSource, cards_of, settings_of
from longstride.cli.whole_pipelines import PipelineOptions, load_pipeline, prompts_in
from longstride.errors import InputError
from longstride.evaluation import Results, Study
from longstride.evaluation.contestants import CONTESTANTS, contestant
from longstride.evaluation.features import load_features
from longstride.evaluation.frechet import FeatureSpace
from longstride.evaluation.measure import Key
from longstride.evaluation.runner import measure_source, space_of
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable
from longstride.journal import Journal, digest
from longstride.nodes import Nodes
from longstride.processes import join
from longstride.solvers import steps_for_nfe
from longstride.zoo.text import as_prompts

__all__ = ["SAMPLES", "SOLVERS", "Measuring", "evaluate_whole"]

#: Contestants, samples and principal components, if the user names none.
SOLVERS, SAMPLES, DIMENSIONS = "ddim,dpmpp_2m,unipc3", 64, 64
#: Intervals want so many batches.
_BATCHES = 32


@dataclass(frozen=True)
class Measuring:
    """What is to be measured; see the options of ``longstride evaluate``. None: the default for pipelines."""

    model: str
    out: Path
    solvers: list[str]
    cards: Mapping[str, Card | CardBook]
    any_model: bool
    nfes: tuple[int, ...]
    samples: int
    guidance: float | None
    seed: int
    device: str
    reference_steps: int
    dimensions: int | None
    features: str
    decoded: bool


def evaluate_whole(asked: Measuring, prompts: Path | None, options: PipelineOptions) -> Results:
    """Measure classical solvers and cards in a pipeline; processes that a launcher started share the samples.

    Args:
        asked: What is to be measured.
        prompts: File of the prompts, which take turns; None: sixteen plain prompts, if the pipeline takes prompts.
        options: What the pipeline is called with.

    Raises:
        CardError: a card is of other weights, or of another call.
        InputError: no such pipeline, options that it refuses, or contestants that are no solvers.
    """
    _check(asked)
    texts = None if prompts is None else prompts_in(prompts)
    _ = options.call
    check_writable(asked.out / "results.json", new_folders=True)
    join(asked.device)
    device = use_device(asked.device)  # of this process
    pipeline = load_pipeline(asked.model, device, options.dtype)
    source = _source(asked, pipeline, texts, options)
    entered, bases = _samplers(asked, source)
    study = _study(asked, entered[0].shape)
    extractor = load_features(study.features, device) if study.dimensions else None
    identity = {
        "model": source.about["model"],
        "prompts": source.caller.prompts,
        "options": digest(repr((options.negative, options.size, options.dtype, options.texts, asked.guidance))),
        "scheduler": digest(repr(sorted(source.own.config.items(), key=str))),
        **{name: getattr(study, name) for name in ("samples", "seed", "features", "dimensions", "reference_steps")},
    }
    found: list[Results] = []
    space: FeatureSpace | None = None
    runs = list(dict.fromkeys(one.ends for one in entered))
    with progress_bars() as say:
        for n, ends in enumerate(runs):
            here = [one for one in entered if one.ends == ends]
            steps = here[0].sampler.steps
            mine = replace(source, reference=PipelineSampler(steps, many=asked.reference_steps))
            journal = Journal(asked.out / "work" / digest(repr(ends))[:8], {**identity, "ends": ends, "steps": steps})
            samplers = {one.key: one.sampler for one in here}
            if extractor is not None and space is None:
                space = space_of(mine, study, journal, extractor)
            part = f", part {n + 1} of {len(runs)}" if len(runs) > 1 else ""
            found.append(
                measure_source(
                    mine,
                    study,
                    samplers,
                    bases,
                    journal,
                    extractor,
                    space=space,
                    others=n == 0,
                    tails=True,
                    say=lambda what, done, total, part=part: say(what + part, done, total),  # type: ignore[misc]
                )
            )
    return _joined(found, list(bases))


def _joined(found: list[Results], names: list[str]) -> Results:
    """The results of samplers that begin or end at different levels, each compared with a converged run of its own.

    Args:
        found: One for each pair of levels.
        names: Names of the samplers in their order.
    """
    order = {name: n for n, name in enumerate(["teacher", *names])}
    lines = [line for n, one in enumerate(found) for line in one.lines if line.contestant != "teacher" or n == 0]
    about = dict(found[0].about)
    error = max(one.about["reference"]["error"] for one in found)
    about["reference"] = {**about["reference"], "error": error, "runs": len(found)}
    return Results(about, tuple(sorted(lines, key=lambda line: (order[line.contestant], line.nfe))))


@dataclass(frozen=True)
class _Entered:
    """A sampler after its first sample.

    Attributes:
        key: Its name and its network calls.
        sampler: The sampler itself.
        ends: Its first and last level, to 6 digits.
        shape: Shape of one sample.
    """

    key: Key
    sampler: PipelineSampler
    ends: tuple[str, str]
    shape: tuple[int, ...]


def _check(asked: Measuring) -> None:
    """Refuse what can be refused without a pipeline.

    Raises:
        InputError: nothing to measure, or a contestant that would have to be calibrated.
    """
    if not asked.solvers and not asked.cards:
        raise InputError("a study needs a contestant or a card")
    for name in asked.solvers:
        if contestant(name).method is not None:
            raise InputError(
                f"{name} would have to be calibrated: make a card of this pipeline with longstride calibrate, and "
                "measure it with --card"
            )
    _study(asked, ())


def _study(asked: Measuring, shape: tuple[int, ...]) -> Study:
    """The study; distances are measured if samples are pictures and there are enough of them, or if they are asked for.

    Args:
        asked: What is to be measured.
        shape: Shape of one sample; empty: not known yet.

    Raises:
        InputError: distances are asked for, and samples are no pictures, or too few.
    """
    pictures = len(shape) == 3 and shape[0] in (1, 3)
    dimensions = asked.dimensions
    if dimensions is None:
        dimensions = DIMENSIONS if asked.samples > DIMENSIONS and pictures else 0
    elif dimensions and shape and not pictures:
        hint = "they are neither grey nor coloured" if asked.decoded else "say --decoded"
        raise InputError(f"Fréchet distances compare pictures, and samples have shape {shape}: {hint}")
    return Study(
        contestants=(),
        nfes=asked.nfes,
        samples=asked.samples,
        batch_size=max(1, asked.samples // _BATCHES),
        reference_steps=asked.reference_steps,
        features=asked.features,
        dimensions=dimensions,
        guidance=asked.guidance,
        seed=asked.seed,
    )


def _source(asked: Measuring, pipeline: Any, texts: list[str] | None, options: PipelineOptions) -> PipelineSource:
    """The pipeline as a source, after its options were checked."""
    from longstride.integrations.anatomy import takes
    from longstride.integrations.made_for import model_of

    given = options.call.names
    takes_prompts = "prompt" in takes(pipeline) and "prompt_embeds" not in given
    if texts is not None and not takes_prompts:
        raise InputError(f"{type(pipeline).__name__} takes no prompts: leave --prompts out")
    caller = Caller(pipeline, list(as_prompts(texts)) if takes_prompts else [], options, asked.guidance)
    first = caller.arguments(0, 2)
    options.check(pipeline, **{name: first.get(name) for name in ("prompt", "class_labels", "guidance_scale")})
    reference = PipelineSampler(2, many=asked.reference_steps)
    fingerprint = model_of(pipeline).fingerprint
    return PipelineSource(caller, pipeline.scheduler, reference, asked.decoded, asked.guidance, fingerprint)


def _samplers(asked: Measuring, source: PipelineSource) -> tuple[list[_Entered], dict[str, str | None]]:
    """Every sampler, and every name's base.

    Each draws one sample, so that whatever the pipeline or a card refuses is refused before long work.
    """
    seed = seed_range("axes", asked.seed, 1)[0]
    entered: dict[Key, _Entered] = {}
    bases: dict[str, str | None] = {}

    def enter(name: str, sampler: PipelineSampler) -> None:
        drawn = source.draw(sampler, seed)
        key, (first, last) = (name, drawn.calls), drawn.ends
        entered.setdefault(key, _Entered(key, sampler, (f"{first:.6g}", f"{last:.6g}"), tuple(drawn.values.shape)))

    # Cards first: what they know of the call, such as their guidance, is of the call of all others, too.
    for name, loaded in asked.cards.items():
        base = f"{name} (base)"
        if name in (*CONTESTANTS, "teacher") or base in bases:
            raise InputError(f"two samplers are called {name!r}: rename the card's file")
        bases |= {base: None, name: base}
        found = [card for card in cards_of(loaded, asked.guidance) if not asked.solvers or card.nfe in asked.nfes]
        if not found:
            calls = f" with {', '.join(map(str, asked.nfes))} network calls" if asked.solvers else ""
            raise InputError(f"{name} holds nothing{calls} at this guidance: choose others")
        for card in found:
            source.know(card, any_model=asked.any_model)
            enter(base, PipelineSampler(card.nfe, card=_base_of(card, source), any_model=asked.any_model))
            enter(name, PipelineSampler(card.nfe, card=card, any_model=asked.any_model))
    for name in asked.solvers:
        bases[name] = None
        one = contestant(name)
        for nfe in asked.nfes:
            enter(name, PipelineSampler(_steps(one.solver, nfe, one.options), one.solver, one.options))
    return list(entered.values()), bases


def _steps(solver: str, nfe: int, options: Mapping[str, Any]) -> int:
    """Steps of a solver that spends at most ``nfe`` calls."""
    for calls in range(nfe, 1, -1):
        try:
            return steps_for_nfe(solver, calls, final_zero=True, **options)
        except InputError:
            continue
    return 1


def _base_of(card: Card, source: PipelineSource) -> Card:
    """A card that holds the table which another card is compared with."""
    table, times = card.base_table, card.schedule.times
    if not np.array_equal(table.sigmas, card.table.sigmas):
        ratios = Nodes(table.alphas, table.sigmas).ratios[:-1]
        times = settings_of(source.own.config).times_of(ratios).tolist()
    schedule = ScheduleInfo(family=card.schedule.family, times=times)
    return card.model_copy(update={"solver": card.base.name, "data": card.base_data, "schedule": schedule})
