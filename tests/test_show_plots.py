"""Plots of tables, steps and runs: what is drawn is what is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problems import Gaussian, Point
from toy_fits import FIRST, SCHEDULE, SIGMAS, networked, noise_of

import longstride as ls
from longstride.errors import InputError, NonFiniteError
from longstride.plots import (
    draw_difference,
    draw_errors,
    draw_levels,
    draw_paths,
    draw_search,
    draw_steps,
    draw_table,
    draw_tables,
    errors_on_the_way,
    paths_of,
    principal_plane,
    states_of,
)
from longstride.reports import Iteration, RowReport, Search

UNIPC, DDIM = ls.build("unipc", SIGMAS), ls.build("ddim", SIGMAS)


def form_of(table):
    return np.column_stack([table.a, table.b])[1:]


def numbers_in(axes):
    """The numbers in the cells of a heatmap, by (row, column)."""
    cells = {}
    for text in axes.texts:
        x, y = text.get_position()
        cells[int(y - 0.5), int(x - 0.5)] = float(text.get_text().replace("−", "-"))
    return cells


def test_a_heatmap_holds_every_weight_with_its_sign():
    form, axes = form_of(UNIPC), draw_table(UNIPC, "UniPC").axes[0]
    expected = {(k, j): form[k, j] for k in range(4) for j in range(k + 2)}
    found = numbers_in(axes)
    assert set(found) == set(expected)
    assert all(found[cell] == pytest.approx(weight, abs=6e-4) for cell, weight in expected.items())
    colours = axes.collections[0].get_array()
    assert (np.sign(colours[~colours.mask]) == np.sign([form[cell] for cell in sorted(expected)])).all()
    assert np.abs(colours).max() == pytest.approx(1)
    assert np.ma.count(colours) == len(expected)  # what no state may read is no cell
    assert axes.get_title(loc="left") == "UniPC"


def test_the_difference_is_the_tables_less_the_bases():
    found = numbers_in(draw_difference(UNIPC, DDIM).axes[0])
    expected = form_of(UNIPC) - form_of(DDIM)
    assert all(found[cell] == pytest.approx(expected[cell], abs=6e-4) for cell in found)
    assert max(map(abs, found.values())) > 0.1
    assert set(numbers_in(draw_difference(DDIM, DDIM).axes[0]).values()) == {0}
    with pytest.raises(InputError, match="4 and 2 calls have no difference"):
        draw_difference(DDIM, ls.build("ddim", SIGMAS[[0, 2, 4]]))


def test_both_tables_share_a_scale_of_colours():
    """One weight has one colour in both; the difference has its own full colour."""
    figure = draw_tables(UNIPC, DDIM, ("mine", "DDIM"))
    mine, base, difference = (axes.collections[0].get_array() for axes in figure.axes)
    largest = max(np.abs(form_of(UNIPC)).max(), np.abs(form_of(DDIM)).max())
    for drawn, table in ((mine, UNIPC), (base, DDIM)):
        assert np.abs(drawn[3, 4]) == pytest.approx(np.sqrt(abs(form_of(table)[3, 4]) / largest))
    assert np.abs(difference).max() == pytest.approx(1)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["mine", "DDIM", "mine − DDIM"]


def test_a_long_table_has_signs_in_place_of_numbers():
    table = ls.build("unipc", ls.grid("karras", 20, sigma_min=0.05, sigma_max=10.0))
    axes = draw_table(table).axes[0]
    assert not axes.texts
    marked = {(int(y - 0.5), int(x - 0.5)) for x, y in zip(*axes.lines[0].get_data(), strict=True)}
    assert marked == set(zip(*map(list, np.nonzero(form_of(table) < 0)), strict=True))


# Levels


def test_levels_stand_at_their_logarithms():
    figure = draw_levels(
        {"one": DDIM, "other": ls.build("ddim", ls.grid("log_snr", 4, schedule=SCHEDULE, final="sigma_min"))}
    )
    axes = figure.axes[0]
    marks = [line for line in axes.lines if line.get_marker() not in ("None", None, "") and len(line.get_xdata())]
    np.testing.assert_allclose(marks[0].get_xdata(), np.log10(SIGMAS))
    assert set(marks[0].get_ydata()) == {0}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "other"]
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # from noisy to clean
    assert all(10**tick == pytest.approx(float(label.get_text())) for tick, label in _ticks(axes))


def _ticks(axes):
    return zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)


def test_levels_of_the_same_number_are_joined():
    def joined(*tables):
        lines = draw_levels({str(n): table for n, table in enumerate(tables)}).axes[0].lines
        return [line.get_xdata() for line in lines if len(line.get_xdata()) == 2]

    np.testing.assert_allclose(joined(DDIM, UNIPC), np.log10(np.stack([SIGMAS, SIGMAS], 1)))
    assert joined(DDIM, ls.build("ddim", SIGMAS[[0, 1, 2, 4]])) == []


def test_zero_and_infinity_stand_at_the_ends():
    schedule = ls.Schedule.flow()
    table = ls.build("ddim", ls.grid("uniform", 4, schedule=schedule), schedule=schedule)
    assert (table.alphas[0], table.sigmas[-1]) == (0, 0)
    axes = draw_levels({"flow": table}).axes[0]
    ends = {label.get_text(): tick for tick, label in _ticks(axes) if label.get_text() in "0∞"}
    places = axes.lines[0].get_xdata()
    assert (places[0], places[-1]) == (ends["∞"], ends["0"])
    assert (np.diff(places) < 0).all()


def test_states_within_a_step_are_open():
    table = ls.build("heun", ls.grid("karras", 3, schedule=SCHEDULE, final="sigma_min"))
    closed, opened = draw_levels({"Heun": table}).axes[0].lines[-2:]
    assert len(closed.get_xdata()) == len(table.grid) == 4
    assert len(opened.get_xdata()) == table.nfe + 1 - 4 > 0
    assert opened.get_markerfacecolor() == "white" != closed.get_markerfacecolor()


# Errors


def test_errors_on_the_way_are_those_to_the_exact_solution():
    problem, x = Gaussian(), noise_of(16)
    found = errors_on_the_way(networked(problem), x, {"DDIM": DDIM, "UniPC": UNIPC}, steps=128)
    for name, table in (("DDIM", DDIM), ("UniPC", UNIPC)):
        levels, errors = found[name]
        np.testing.assert_allclose(levels, SIGMAS[1:])
        states = states_of(problem, x, table)
        exact = [problem.solution(x, FIRST, (1.0, level)) for level in SIGMAS[1:].tolist()]
        expected = [float((states[k] - end).square().mean().sqrt()) for k, end in enumerate(exact, start=1)]
        np.testing.assert_allclose(errors, expected, rtol=2e-2)
    assert found["UniPC"][1][-1] < found["DDIM"][1][-1]
    point = errors_on_the_way(networked(Point()), x, {"DDIM": DDIM})["DDIM"][1]
    assert point.max() < 1e-10  # every solver is exact on one point


def test_errors_are_drawn_at_their_levels():
    errors = {"a": (np.array([10.0, 1.0, 0.0]), np.array([0.5, 0.2, 0.0])), "b": (np.array([5.0]), np.array([0.1]))}
    axes = draw_errors(errors).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xdata()[:2], [1, 0])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.5, 0.2, np.nan])  # no logarithm of 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert axes.get_yscale() == "log"


def test_only_tables_between_the_same_levels_are_compared():
    other = ls.build("ddim", 2 * SIGMAS)
    with pytest.raises(InputError, match="'b' runs from sigma 20 to 0.1, but another table from 10 to 0.05"):
        errors_on_the_way(networked(Gaussian()), noise_of(2), {"a": DDIM, "b": other})
    with pytest.raises(InputError, match="no table"):
        errors_on_the_way(networked(Gaussian()), noise_of(2), {})


def test_a_step_that_kept_the_base_is_open_and_has_its_error():
    def step(row, base, fitted, accepted):
        return RowReport(row, 2.0, 1.0, ("d",), (0.1,), base, fitted, base, fitted, accepted)

    axes = draw_steps([step(1, 0.4, 0.2, True), step(2, 0.3, 0.9, False)]).axes[0]
    base, mine, kept = (line.get_ydata().tolist() for line in axes.lines)
    assert (base, mine, kept) == ([0.4, 0.3], [0.2, 0.3], [0.3])
    assert axes.lines[2].get_xdata().tolist() == [2]


def test_the_course_of_a_fit_is_drawn():
    steps = tuple(Iteration(0.1, 0.2, rmse, held_out, 0.0) for rmse, held_out in ((0.5, 0.6), (0.3, 0.4)))
    search = Search("ddim@karras", {"ddim@karras": 0.5}, {}, "ddim@karras", steps, "done")
    lines = draw_search(search).axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == [[0.6, 0.4], [0.5, 0.3]]
    with pytest.raises(InputError, match="made no steps"):
        draw_search(Search("given", {}, {}, "given", (), "done"))


# Trajectories


def test_states_of_a_run_are_those_of_the_sampler():
    problem, x, seen = Gaussian(), noise_of(3), []
    end = ls.sample(problem, x, UNIPC, callback=lambda k, sigma, state, prediction: seen.append(state.clone()))
    torch.testing.assert_close(states_of(problem, x, UNIPC), torch.stack([*seen, end]))

    def broken(state, sigma):
        return state * torch.nan if sigma < 1 else state

    with pytest.raises(NonFiniteError, match="NaN or infinity at call"):
        states_of(broken, x, UNIPC)


def test_a_network_that_writes_into_its_argument_does_not_change_the_path():
    def writes(x, sigma):
        answer = Gaussian()(x, sigma)
        x.zero_()
        return answer

    torch.testing.assert_close(states_of(writes, noise_of(3), UNIPC), states_of(Gaussian(), noise_of(3), UNIPC))


def test_paths_are_on_the_scale_where_noise_and_data_are_of_one_size():
    x = noise_of(64)
    path = paths_of(Gaussian(), x, {"DDIM": DDIM})["DDIM"]
    assert path[0].std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(path[-1], ls.sample(Gaussian(), x, DDIM) / np.hypot(1, SIGMAS[-1]))
    with pytest.raises(InputError, match="'b' starts at sigma 20"):
        paths_of(Gaussian(), x, {"a": DDIM, "b": ls.build("ddim", 2 * SIGMAS)})


def plane_paths(noise=0.0):
    """Two paths in a plane of 40 dimensions, and what stands out of it."""
    draw = np.random.default_rng(0)
    axes = np.linalg.qr(draw.normal(size=(40, 3)))[0].T
    flat = {"a": draw.normal(size=(6, 2)) * [5, 1], "b": draw.normal(size=(65, 2)) * [5, 1]}
    return {n: 3 + f @ axes[:2] + noise * draw.normal(size=(len(f), 1)) * axes[2] for n, f in flat.items()}, flat


def test_the_principal_plane_of_plane_paths_is_their_plane():
    """Distances between all states are kept, and nothing of the variance is lost."""
    paths, flat = plane_paths()
    places, share = principal_plane(paths)
    assert share == pytest.approx(1)
    found, known = (np.concatenate([one["a"], one["b"]]) for one in (places, flat))
    for i, j in itertools.combinations(range(0, 71, 7), 2):
        assert np.linalg.norm(found[i] - found[j]) == pytest.approx(np.linalg.norm(known[i] - known[j]))
    assert places["a"][0, 0] <= 0  # it starts on the left
    assert principal_plane(plane_paths(noise=0.5)[0])[1] == pytest.approx(1 - 0.25 / 26.25, abs=0.01)


def test_a_path_that_does_not_move_has_a_plane():
    places, share = principal_plane({"still": np.ones((3, 5))})
    assert share == 1
    assert not places["still"].any()


def test_paths_are_drawn_in_the_plane_of_their_sample():
    tables = {"converged": ls.build("ddim", ls.grid("karras", 40, schedule=SCHEDULE, final="sigma_min")), "DDIM": DDIM}
    paths = paths_of(Gaussian(), noise_of(5), tables)
    figure = draw_paths(paths)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 5
    for sample, axes in enumerate(shown):
        places, share = principal_plane({name: path[:, sample].numpy() for name, path in paths.items()})
        assert axes.get_title() == f"sample {sample + 1}: {100 * share:.3g} % of the variance"
        drawn = {line.get_label(): line for line in axes.lines}
        for name, place in places.items():
            np.testing.assert_allclose(drawn[name].get_xydata(), place)
        assert (drawn["converged"].get_marker(), drawn["DDIM"].get_marker()) == ("", "o")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["converged", "DDIM"]
    with pytest.raises(InputError, match="one number of samples"):
        draw_paths({"a": paths["DDIM"], "b": paths["DDIM"][:, :2]})
