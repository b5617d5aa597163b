"""One summary over networks and methods: errors over those of the usual solvers, and over those of longstride.

What is read are results files: universal tables, choices and budgets on many networks, and everybody else on the
networks of the benchmark against peers. Both files measure on noise of their own. So an error is never compared with an
error of another file: each is divided by that of the best of Euler (DDIM), DPM-Solver++ 2M and UniPC-3, on the levels
that users get by default, on the same network, the same noise and the same number of calls.

Methods were run on different networks. Every figure therefore holds the ratio of every network that it covers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import budgets
from longstride.calibration.starts.classical import CLASSICAL
from longstride.errors import InputError
from longstride.evaluation.results import Results, load_results
from longstride.files import check_writable, write_atomically

__all__ = ["BUDGETS", "MEASURES", "USUAL", "Scene", "aggregate", "many_scenes", "peer_scene", "summarise", "summary"]

#: Solvers that people use; on default levels they are the denominator.
USUAL = ("ddim", "dpmpp_2m", "unipc3")
#: Measures by the names of the summary: those of universal tables, and those of the benchmark against peers.
MEASURES = {"rmse": "rmse", "median": "median", "frechet": "fd_teacher"}
#: Budgets of a calibration, in network calls.
BUDGETS = (2000, 10000)
#: Least and most network calls of the summary.
_LEAST, _MOST = 3, 12
#: Fewest classical solvers of which one is said to be the best.
_ENOUGH = 3
#: Networks of the benchmark against peers by the names that universal tables know them by.
_SAME = {
    "galaxy_hsc32": "hsc32",
    "galaxy_hsc64": "hsc64",
    "cifar10": "cifar10",
    "garments": "garments",
    "garments_flow": "garments_flow",
    "garments_guided": "garments@3",
    "garments_guided7": "garments@7.5",
}


@dataclass(frozen=True)
class Scene:
    """One network on one set of noise.

    Attributes:
        network: Name of the network.
        values: What was measured, by network calls, method and measure.
    """

    network: str
    values: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)

    def value(self, method: str, calls: int, measure: str) -> float | None:
        """A measure of a method, or None; ``best`` is the least of all classical solvers, ``usual`` of :data:`USUAL`.

        Where one of the usual solvers is missing, there is no ``usual``; where fewer than three were measured, as at
        numbers of calls that are yardsticks alone, there is no ``best``.
        """
        at = self.values.get(calls, {})
        if method == "usual":
            found = [at.get(f"{name}@usual", {}).get(measure) for name in USUAL]
            return None if None in found else min(one for one in found if one is not None)
        if method == "best":
            known = [one[measure] for name, one in at.items() if _is_classical(name) and measure in one]
            return min(known) if len(known) >= _ENOUGH else None
        return at.get(method, {}).get(measure)

    def ratio(self, method: str, calls: int, measure: str, under: str = "usual") -> float | None:
        """A measure of a method over that of another; None where one of both is missing."""
        above, below = self.value(method, calls, measure), self.value(under, calls, measure)
        return None if above is None or below is None else above / below

    @property
    def methods(self) -> set[str]:
        """All methods."""
        return {method for at in self.values.values() for method in at}


def _is_classical(method: str) -> bool:
    return method.partition("@")[0] in CLASSICAL


def aggregate(ratios: Mapping[str, float]) -> dict[str, Any]:
    """What ratios of networks say together; each counts once, on a logarithmic scale.

    Args:
        ratios: Positive ratios by network.

    Returns:
        Geometric mean, least and largest ratio, quartiles, and the network of the largest.

    Raises:
        InputError: there is no ratio, or one is not positive and finite.
    """
    if not ratios:
        raise InputError("no network has this ratio: aggregate what was measured on at least one")
    for name, ratio in ratios.items():
        if not (math.isfinite(ratio) and ratio > 0):
            raise InputError(f"expected a positive, finite ratio on {name}, got {ratio}: measure that network again")
    logs = np.log(list(ratios.values()))
    low, high = np.quantile(logs, [0.25, 0.75])
    worst = max(ratios, key=lambda name: ratios[name])
    return {
        "mean": math.exp(float(logs.mean())),
        "best": min(ratios.values()),
        "low": math.exp(float(low)),
        "high": math.exp(float(high)),
        "worst": ratios[worst],
        "worst_of": worst,
        "networks": dict(ratios),
    }


def many_scenes(universal: Mapping[str, Any], within: Mapping[str, Any]) -> dict[str, Scene]:
    """Scenes of universal tables, by network, with calibrations within budgets where they had the same noise.

    Of several choices the geometric mean and the worst count.

    Args:
        universal: What the results file of universal tables says of networks that start where they do.
        within: What the results file of budgets says.
    """
    scenes = {}
    for name, one in universal.items():
        scene = scenes[name] = Scene(name)
        for calls in _calls(one):
            line = one[str(calls)]
            if "left_out" not in line:
                continue
            at = scene.values[calls] = {
                key.partition("@")[0] + "@usual" if key in line["usual"] else key: dict(found)
                for key, found in line["classical"].items()
            }
            at["universal"] = dict(line["left_out"])
            if drawn := line.get("chosen"):
                at["chosen"] = {m: math.exp(float(np.mean(np.log([d[m] for d in drawn])))) for m in drawn[0]}
                at["chosen_worst"] = {m: max(d[m] for d in drawn) for m in drawn[0]}
            budget = within.get(name, {}).get(str(calls), {}) if one["samples"] == budgets.FRESH_SAMPLES else {}
            named = {"longstride": "default", **{f"budget_{calls}": str(calls) for calls in BUDGETS}}
            for method, key in named.items():
                if "rmse" in budget.get(key, {}):
                    at[method] = {m: budget[key][m] for m in ("rmse", "median")}
    return scenes


def _calls(one: Mapping[str, Any]) -> list[int]:
    return sorted(int(key) for key in one if key.isdigit() and _LEAST <= int(key) <= _MOST)


def peer_scene(network: str, results: Results) -> Scene:
    """A network of the benchmark against peers; longstride's default calibration is ``longstride``."""
    scene, spacing = Scene(network), results.about["study"]["grid"]
    names = {f"{name}@{spacing}": f"{name}@usual" for name in CLASSICAL} | {"gauss_newton": "longstride"}
    skipped = ("classical", "gauss_newton_full")  # chosen by calibration noise; another setting of our own
    for nfe in (nfe for nfe in results.nfes if _LEAST <= nfe <= _MOST):
        at = scene.values[nfe] = {}
        for name in (name for name in results.contestants if name not in skipped):
            lines = {short: results.value(name, nfe, long) for short, long in MEASURES.items()}
            if found := {short: line.value for short, line in lines.items() if line is not None}:
                at[names.get(name, name)] = found
    return scene


def summarise(many: Mapping[str, Scene], peers: Mapping[str, Scene]) -> dict[str, Any]:
    """Everything that the scenes say, as plain data.

    ``many`` and ``peers`` hold ratios to the best of the usual solvers, by measure, method and calls; ``many_best`` and
    ``peers_best`` hold ratios to the best classical solver in hindsight. In ``many`` stand the methods of the first
    scenes, and longstride on the networks of both. In ``peers`` stand the methods of the second scenes, and universal
    tables and choices on the same networks, from the first scenes. Fréchet distances are of different features there
    and are not mixed. ``longstride`` holds longstride over each method, of one scene always; a network of both scenes
    counts once, with the second.
    """
    calls = sorted({nfe for scene in (*many.values(), *peers.values()) for nfe in scene.values})
    same = {name: scene for name, scene in many.items() if name in peers}
    parts = {
        "many": (many, ("longstride",), peers),
        "peers": (peers, ("universal", "chosen", "chosen_worst"), same),
    }
    found: dict[str, Any] = {"calls": calls}
    for part, (scenes, borrowed, more) in parts.items():
        for under in ("usual", "best"):
            methods = dict.fromkeys(({"usual": "best", "best": "usual"}[under], *_methods(scenes.values()), *borrowed))
            found[part if under == "usual" else f"{part}_best"] = {
                measure: _known(
                    {
                        method: _by_calls(
                            [scenes, more] if measure != "frechet" and method in borrowed else [scenes],
                            calls,
                            method,
                            measure,
                            under,
                        )
                        for method in methods
                    }
                )
                for measure in MEASURES
            }
    rivals = [name for name in ("usual", "best", *_methods([*peers.values(), *many.values()])) if name != "longstride"]
    found["longstride"] = {
        measure: _known({name: _by_calls([many, peers], calls, "longstride", measure, name) for name in rivals})
        for measure in MEASURES
    }
    return found


def _known(methods: dict[str, Any]) -> dict[str, Any]:
    return {method: at for method, at in methods.items() if at}


def _methods(scenes: Iterable[Scene]) -> list[str]:
    """Methods but those on grids that were the best of a network by chance of the search."""
    methods = {method for scene in scenes for method in scene.methods}
    return sorted(m for m in methods if not (_is_classical(m) and "@" in m and not m.endswith("@usual")))


def _by_calls(
    groups: list[Mapping[str, Scene]], calls: Iterable[int], method: str, measure: str, under: str
) -> dict[str, Any]:
    """Aggregated ratios by calls; a network of several groups counts with the last."""
    found = {}
    for nfe in calls:
        ratios = {
            name: ratio
            for scenes in groups
            for name, scene in scenes.items()
            if (ratio := scene.ratio(method, nfe, measure, under)) is not None
        }
        if ratios:
            found[str(nfe)] = aggregate(ratios)
    return found


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def summary(
    results: Annotated[
        Path, typer.Option(help="Folder of the results files; summary.json is written there.", metavar="FOLDER")
    ] = Path("benchmarks/results"),
) -> None:
    """Every method over the usual solvers, on all networks that it was run on; no network is called."""
    out = results / "summary.json"
    check_writable(out)
    many = many_scenes(_read(results / "universal.json").get("own", {}), _read(results / "budgets.json"))
    files = {name: results / f"peers_{slug}.json" for slug, name in _SAME.items()}
    peers = {name: peer_scene(name, load_results(file)) for name, file in files.items() if file.is_file()}
    if not (many or peers):
        raise InputError(f"{results} holds neither universal.json nor peers_*.json: name the folder of the results")
    content = _rounded(summarise(many, peers))
    write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
    print(f"written {out}; python -m benchmarks pages --docs . fills docs/peers.md")


def _rounded(found: Any) -> Any:
    """Plain data with four digits of every ratio."""
    if isinstance(found, dict):
        return {key: _rounded(one) for key, one in found.items()}
    return float(f"{found:.4g}") if isinstance(found, float) else found
