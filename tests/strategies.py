"""What properties are tested on: any schedule, any levels, any solver on them, any table, any card."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from problems import level_of_lambda

import longstride as ls
from longstride.book_parts import Entry
from longstride.guard.score import Guard
from longstride.guard.statistics import names
from longstride.reports import EndReport, Errors, Report, RowReport, Stability
from longstride.solvers import CLASSICAL_SOLVERS

#: Few examples, the same ones in every run.
LIGHT = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

FAMILIES = ("ve", "vp", "flow")
#: A number that a card may hold, whatever it is there.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.floats(1e-6, 1e6)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
#: What the settings of a method, a pipeline or a scheduler may hold.
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def ve(draw):
    low = draw(st.floats(1e-4, 0.5))
    return ls.Schedule.edm(low, low * draw(st.floats(4.0, 1e5)))


@st.composite
def vp(draw):
    if draw(st.booleans()):
        rule, steps = draw(st.sampled_from(["linear", "scaled_linear", "cosine"])), draw(st.integers(20, 1000))
        return ls.Schedule.vp(beta_schedule=rule, beta_end=draw(st.floats(0.005, 0.05)), steps=steps)
    falling = np.cumprod(draw(st.lists(st.floats(0.5, 0.99), min_size=4, max_size=60)))
    return ls.Schedule.vp([*falling, 0.0] if draw(st.booleans()) else falling)


@st.composite
def vp_continuous(draw):
    return ls.Schedule.vp_continuous(
        draw(st.floats(0.01, 1.0)), draw(st.floats(1.0, 40.0)), draw(st.floats(1e-5, 1e-2)), draw(st.floats(0.5, 2.0))
    )


@st.composite
def flow(draw):
    return ls.Schedule.flow(draw(st.floats(0.2, 8.0)), draw(st.sampled_from([1.0, 1000.0])), draw(st.floats(1e-4, 0.1)))


SCHEDULES = ve() | vp() | vp_continuous() | flow()


@st.composite
def levels(draw, family=None, most=6):
    """Alphas and sigmas of 1 to ``most`` steps, of a family; the last sigma may be 0."""
    family = family or draw(st.sampled_from(FAMILIES))
    falls = draw(st.lists(st.floats(1.2, 8.0), min_size=1, max_size=most))
    ratios = draw(st.floats(0.5, 200.0)) / np.cumprod([1.0, *falls])
    both = [level_of_lambda(family, -np.log(ratio)) for ratio in ratios]
    if draw(st.booleans()):
        both[-1] = (1.0, 0.0)
    return tuple(np.array(part) for part in zip(*both, strict=True))


@st.composite
def built(draw):
    """Any solver of the registry on any levels."""
    alphas, sigmas = draw(levels())
    name = draw(st.sampled_from(sorted(CLASSICAL_SOLVERS)))
    try:
        return ls.build(name, sigmas, alphas=alphas)
    except ls.InputError:  # some take their first steps at positive levels alone
        return ls.build(name, sigmas[:-1], alphas=alphas[:-1]) if len(sigmas) > 2 else ls.build("ddim", sigmas)


@st.composite
def tables(draw):
    """Any weights on any levels; exact on one value if it is drawn so."""
    alphas, sigmas = draw(levels())
    count, weight, rows = len(sigmas) - 1, st.floats(-3.0, 3.0), []
    for k in range(1, count + 1):
        states = draw(st.dictionaries(st.integers(0, k - 1), weight, max_size=3))
        outputs = draw(st.dictionaries(st.integers(0, k - 1), weight, min_size=1, max_size=3))
        rows.append(ls.Row(states, outputs))
    return ls.SolverTable("drawn", alphas, sigmas, tuple(rows), tuple(range(count + 1)), {}, exact=False)


@st.composite
def errors(draw):
    return Errors(draw(SIZES), draw(SIZES))


@st.composite
def reports(draw, nfe):
    """A report of rows and of the end."""
    accepted = draw(st.booleans())
    rows = [
        RowReport(k, 2.0, 1.0, ("a",), (draw(NUMBERS),), *(draw(SIZES) for _ in range(4)), accepted=draw(st.booleans()))
        for k in range(1, draw(st.integers(0, nfe)) + 1)
    ]
    stability = draw(st.none() | st.builds(Stability, *[SIZES] * 4))
    end = EndReport(
        draw(errors()), draw(errors()), draw(st.integers(1, 10**6)), draw(st.none() | SIZES), 64, (), accepted,
        "" if accepted else draw(TEXTS), stability,
    )  # fmt: skip
    return Report(tuple(rows), end, draw(st.integers(0, 2**53)))


@st.composite
def guards(draw, nfe):
    count = len(names(nfe))
    one = st.lists(NUMBERS, min_size=count, max_size=count).map(tuple)
    scale = st.lists(SIZES, min_size=count, max_size=count).map(tuple)
    return Guard(draw(one), draw(scale), draw(one), draw(NUMBERS), draw(NUMBERS), draw(st.floats(0.001, 0.5)))


@st.composite
def models(draw):
    return ls.ModelInfo(
        name=draw(TEXTS),
        fingerprint=draw(st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)),
        guidance=draw(st.none() | NUMBERS),
        shape=draw(st.none() | st.lists(st.integers(1, 512), max_size=4).map(tuple)),
    )


@st.composite
def cards(draw, model=None):
    """Any table, as a card."""
    table, schedule = draw(tables()), draw(st.none() | ve())
    base = ls.build("ddim", table.sigmas, alphas=table.alphas)
    settings = draw(st.dictionaries(TEXTS, PLAIN, max_size=4))
    guard = draw(st.none() | guards(table.nfe))
    about = draw(models()) if model is None else model
    return ls.Card.of(table, base, "drawn", settings, about, schedule, draw(reports(table.nfe)), guard)


@st.composite
def books(draw):
    """Cards of one model at different settings."""
    model = draw(models()).model_copy(update={"guidance": None})
    guided, entries = draw(st.booleans()), {}
    for card in draw(st.lists(cards(model), min_size=1, max_size=3)):
        scale = draw(st.floats(0.0, 20.0)) if guided else None
        card = card.model_copy(update={"model": model.model_copy(update={"guidance": scale})})
        how = draw(st.sampled_from(["calibrated", "filled", "filled and refined"])) if card.end.accepted else "base"
        entries[card.nfe, scale] = Entry(how=how, card=card)
    return ls.CardBook.of(list(entries.values()), draw(st.none() | SCHEDULES))
