"""What the page says of its method: what was measured, what was not, what the words mean, and the commands."""

from __future__ import annotations

from longstride.report.asked import FULL
from longstride.report.language import Language
from longstride.report.outcome import Outcome

__all__ = ["commands_of", "facts_of", "limits_of", "terms_of"]

Lines = list[dict[str, str]]


def facts_of(outcome: Outcome, language: Language) -> Lines:
    """What was measured, on how much, and where."""
    _, whole, counts, machine = language.text, language.whole, outcome.counts, outcome.machine
    shape = " × ".join(map(str, outcome.subject.shape))
    lines = [
        (_("Model"), f"{outcome.subject.model}, {shape}"),
        (_("Weights"), outcome.subject.fingerprint[:12]),
    ]
    if outcome.subject.guidance is not None:
        guided = _("{scale}: every call costs two runs of the network", scale=language.number(outcome.subject.guidance))
        lines.append((_("Guidance"), guided))
    samples = _("{fitted} fitted, {held_out} held out", fitted=whole(counts.fitted), held_out=whole(counts.held_out))
    lines += [
        (_("Calibration samples"), samples),
        (_("Evaluation samples"), _("{count}, none of them seen before", count=whole(counts.evaluated))),
        (_("Converged solution"), _("{calls} calls", calls=counts.reference_calls)),
    ]
    if counts.reference_error is not None:
        lines.append((_("Its own error"), language.number(counts.reference_error)))
    if counts.dimensions:
        features = _("{count} dimensions of {features}", count=counts.dimensions, features=counts.features)
        lines.append((_("Fréchet distance"), features))
    lines += [
        (_("Timed rounds"), whole(counts.rounds)),
        (_("Device"), f"{machine.device}: {machine.processor}"),
        (_("Threads"), str(machine.threads)),
        (_("Versions"), f"longstride {machine.longstride}, PyTorch {machine.torch}, Python {machine.python}"),
        (_("Starts until finished"), str(outcome.cost.starts)),
    ]
    return [{"name": name, "value": value} for name, value in lines]


def limits_of(outcome: Outcome, language: Language) -> list[str]:
    """What the page cannot show."""
    _ = language.text
    found = []
    if outcome.quick:
        found.append(
            _(
                "Quick: {samples} samples in place of {full}. A failure of one sample in a hundred may not appear; "
                "differences of a few per cent are not seen; the Fréchet distance has {dimensions} dimensions in place "
                "of {more}, and is a rough one. Without --quick the same command measures fully.",
                samples=language.whole(outcome.counts.evaluated),
                full=language.whole(FULL.samples, 4),
                dimensions=outcome.counts.dimensions,
                more=FULL.dimensions,
            )
        )
    found += [
        _(
            "What people prefer: errors are distances to the converged solution of the same network, not to taste. The "
            "blind choice above is yours."
        ),
        _("How good the network itself is: all samplers use the same one, and none can be better than it."),
        _("Other devices, batches and precisions: seconds were measured here alone."),
        _("Prompts, classes or guidance other than those of the evaluation samples."),
        _("The service around the network: text encoders, decoders, queues and transfer are not in the seconds."),
    ]
    return found


def terms_of(language: Language) -> Lines:
    """What the words mean."""
    _ = language.text
    terms = [
        (
            _("Network call"),
            _("One run of the network on one picture. A sampler makes a picture with some tens of them."),
        ),
        (_("Sampler"), _("The rule that turns noise into a picture by network calls.")),
        (
            _("Converged solution"),
            _(
                "The picture that the same network makes from the same noise with so many calls that further ones "
                "change nothing."
            ),
        ),
        (
            _("Error, RMSE"),
            _(
                "Root-mean-square distance of pixels, or of latents, to the converged solution from the same noise. "
                "Pixels run from −1 to 1: 0.0078 is one step of 8-bit grey."
            ),
        ),
        (
            _("Ratio"),
            _(
                "RMSE over today's RMSE on the same noise. The interval is a bootstrap over pairs, widened so that it "
                "holds for all calibrated numbers of calls together."
            ),
        ),
        (
            _("Fréchet distance"),
            _("Distance between two sets of pictures, here to the converged ones: it sees what changes in the set."),
        ),
        (
            _("Calibration"),
            _(
                "The weights and levels of a sampler are fitted to this network, once, by runs of the network alone. "
                "The network stays as it is."
            ),
        ),
        (_("Gate"), _("Held-out samples accept the calibrated sampler, or keep the classical one.")),
    ]
    return [{"name": name, "text": text} for name, text in terms]


def commands_of(outcome: Outcome, folder: str, language: Language) -> Lines:
    """The commands that make the numbers.

    Args:
        outcome: What was measured.
        folder: Folder of the cards and the outcome, as it is written in commands.
        language: The language.
    """
    _, effort, today = language.text, outcome.counts, outcome.today[0]
    calls = ",".join(str(one) for one in sorted({*(n for n in outcome.asked), outcome.today[1]}))
    guidance = "" if outcome.subject.guidance is None else f" --guidance {outcome.subject.guidance:g}"
    evaluate = (
        f"longstride evaluate {outcome.subject.model} --card {folder}/cards.json --solvers {today} --nfe {calls} "
        f"--samples {effort.evaluated} --batch-size {effort.batch} --reference-steps {effort.reference_calls} "
        f"--dimensions {effort.dimensions} --seed {outcome.seed}{guidance}"
    )
    lines = [
        (_("Everything on this page"), outcome.command),
        (_("This page again, from the numbers"), f"longstride poc --from {folder}/outcome.json"),
        (_("RMSE and median, by the general tool"), evaluate),
        (_("Gate and stability of a card"), f"longstride show {folder}/cards.json"),
    ]
    return [{"name": name, "value": value} for name, value in lines]
