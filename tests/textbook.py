"""Every solver once more, as the loop of its paper, independent of the tables in the library.

A loop takes ``problem(x, sigma, alpha)``, the first state and the levels ``(alpha, sigma)``; it returns the last state.
``eps`` and ``D`` are the noise and the clean prediction; ``lam = log(alpha / sigma)``; ``rho = sigma / alpha``.
A loop with stages between levels also takes the family, which says where the level of a given lambda lies.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from problems import level_of_lambda


def lam(level):
    return math.log(level[0] / level[1]) if level[1] else math.inf


def rho(level):
    return level[1] / level[0]


def eps(problem, x, level):
    alpha, sigma = level
    return (x - alpha * problem(x, sigma, alpha)) / sigma


def transfer(x, noise, start, end):
    """DDIM (Song et al., 2021, Eq. 12): predict the clean picture, and add the same noise at the next level."""
    clean = (x - start[1] * noise) / start[0]
    return end[0] * clean + end[1] * noise


def ddim(problem, x, levels):
    for start, end in pairwise(levels):
        x = transfer(x, eps(problem, x, start), start, end)
    return x


# Pseudo numerical methods (Liu et al., 2022)


def linear_multistep(past):
    """Eq. 12 and its lower orders; ``past`` ends with the latest noise."""
    e = past[::-1]
    if len(past) == 1:
        return e[0]
    if len(past) == 2:
        return (3 * e[0] - e[1]) / 2
    if len(past) == 3:
        return (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
    return (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24


def ipndm(problem, x, levels, order=4):
    past = []
    for start, end in pairwise(levels):
        past.append(eps(problem, x, start))
        x = transfer(x, linear_multistep(past[-order:]), start, end)
    return x


def pndm(problem, x, levels, halfway, order=4):
    """Algorithm 2; ``halfway(start, end)`` is the level in the middle of the network's time."""
    past = []
    for i, (start, end) in enumerate(pairwise(levels)):
        e1 = eps(problem, x, start)
        past.append(e1)
        if i < 3:
            middle = halfway(start, end)
            e2 = eps(problem, transfer(x, e1, start, middle), middle)
            e3 = eps(problem, transfer(x, e2, start, middle), middle)
            e4 = eps(problem, transfer(x, e3, start, end), end)
            x = transfer(x, (e1 + 2 * e2 + 2 * e3 + e4) / 6, start, end)
        else:
            x = transfer(x, linear_multistep(past[-order:]), start, end)
    return x


def improved_euler_start(problem, x, levels, order=2):
    """S-PNDM for order 2."""
    past = []
    for i, (start, end) in enumerate(pairwise(levels)):
        past.append(eps(problem, x, start))
        noise = linear_multistep(past[-order:])
        if i == 0:
            noise = (noise + eps(problem, transfer(x, noise, start, end), end)) / 2
        x = transfer(x, noise, start, end)
    return x


# DEIS (Zhang & Chen, 2023, Eqs. 14-15)


def deis(problem, x, levels, integrals, order=3):
    """``integrals(start, end, tau)`` integrates every Lagrange polynomial through the levels ``tau`` over rho."""
    past = []
    for i, (start, end) in enumerate(pairwise(levels)):
        past = [eps(problem, x, start), *past][:order]
        weights = integrals(start, end, levels[i::-1][: len(past)])
        x = end[0] * (x / start[0] + sum(c * e for c, e in zip(weights, past, strict=True)))
    return x


def lagrange(nodes, j):
    """Coefficients, highest power first."""
    others = [v for k, v in enumerate(nodes) if k != j]
    return np.poly(others) / np.prod([nodes[j] - v for v in others]) if others else np.ones(1)


def rho_integrals(start, end, past):
    nodes = [rho(level) for level in past]
    primitives = [np.polyint(lagrange(nodes, j)) for j in range(len(nodes))]
    return [np.polyval(p, rho(end)) - np.polyval(p, rho(start)) for p in primitives]


def log_rho_integrals(start, end, past):
    """From the primitives of 1, log and log²: r, r (log r - 1), r (log² r - 2 log r + 2)."""

    def primitives(r):
        log = math.log(r) if r else 0.0
        return np.array([r * (log**2 - 2 * log + 2), r * (log - 1), r])

    nodes = [math.log(rho(level)) for level in past]
    span = primitives(rho(end)) - primitives(rho(start))
    return [float(lagrange(nodes, j) @ span[-len(nodes) :]) for j in range(len(nodes))]


def time_integrals(schedule):
    """Simpson's rule in the time of a continuous VP schedule, with ``rho' = beta (1 + rho²) / (2 rho)``."""

    def integrals(start, end, past):
        nodes = [float(schedule.time_of_ratio(rho(level))) for level in past]
        times = np.linspace(nodes[0], float(schedule.time_of_ratio(rho(end))), 2001)
        beta = schedule.beta_min + (schedule.beta_max - schedule.beta_min) * times / schedule.t_max
        r = schedule.ratio(times)
        simpson = np.tile([2.0, 4.0], 1001)[:2001]
        simpson[[0, -1]] = 1
        d_rho = simpson * (times[1] - times[0]) / 3 * beta * (1 + r * r) / (2 * r)
        return [float(d_rho @ np.polyval(lagrange(nodes, j), times)) for j in range(len(nodes))]

    return integrals


# EDM (Karras et al., 2022, Algorithm 1 without noise), in x / alpha


def heun(problem, x, levels):
    for start, end in pairwise(levels):
        d = eps(problem, x, start)
        ahead = end[0] * (x / start[0] + (rho(end) - rho(start)) * d)
        if end[1] > 0:
            d = (d + eps(problem, ahead, end)) / 2
        x = end[0] * (x / start[0] + (rho(end) - rho(start)) * d)
    return x


# DPM-Solver (Lu et al., 2022) and DPM-Solver++ (Lu et al., 2022)


def dpm_solver_2(problem, x, levels, family):
    """DPM-Solver, Algorithm 1."""
    for start, end in pairwise(levels):
        (a0, s0), (a1, s1) = start, end
        e = eps(problem, x, start)
        if s1 == 0:
            x = a1 * (x - s0 * e) / a0
            continue
        h = lam(end) - lam(start)
        am, sm = middle = level_of_lambda(family, lam(start) + h / 2)
        u = am / a0 * x - sm * math.expm1(h / 2) * e
        x = a1 / a0 * x - s1 * math.expm1(h) * eps(problem, u, middle)
    return x


def dpm_solver_3(problem, x, levels, family):
    """DPM-Solver, Algorithm 2, with r1 = 1/3 and r2 = 2/3."""
    r1, r2 = 1 / 3, 2 / 3
    for start, end in pairwise(levels):
        (a0, s0), (a1, s1) = start, end
        e = eps(problem, x, start)
        if s1 == 0:
            x = a1 * (x - s0 * e) / a0
            continue
        h = lam(end) - lam(start)
        (b1, t1), (b2, t2) = m1, m2 = [level_of_lambda(family, lam(start) + r * h) for r in (r1, r2)]
        u1 = b1 / a0 * x - t1 * math.expm1(r1 * h) * e
        d1 = eps(problem, u1, m1) - e
        u2 = b2 / a0 * x - t2 * math.expm1(r2 * h) * e - t2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = eps(problem, u2, m2) - e
        x = a1 / a0 * x - s1 * math.expm1(h) * e - s1 / r2 * (math.expm1(h) / h - 1) * d2
    return x


def dpmpp_2s(problem, x, levels, family):
    """DPM-Solver++, Algorithm 1, with r = 1/2."""
    for start, end in pairwise(levels):
        (a0, s0), (a1, s1) = start, end
        d = problem(x, s0, a0)
        if s1 == 0:
            x = a1 * d
            continue
        h = lam(end) - lam(start)
        am, sm = level_of_lambda(family, lam(start) + h / 2)
        u = sm / s0 * x - am * math.expm1(-h / 2) * d
        x = s1 / s0 * x - a1 * math.expm1(-h) * problem(u, sm, am)
    return x


def dpmpp_3s(problem, x, levels, family):
    """DPM-Solver++, the third-order single-step solver in its appendix."""
    r1, r2 = 1 / 3, 2 / 3
    for start, end in pairwise(levels):
        (a0, s0), (a1, s1) = start, end
        d = problem(x, s0, a0)
        if s1 == 0:
            x = a1 * d
            continue
        h = lam(end) - lam(start)
        (b1, t1), (b2, t2) = [level_of_lambda(family, lam(start) + r * h) for r in (r1, r2)]
        u1 = t1 / s0 * x - b1 * math.expm1(-r1 * h) * d
        d1 = problem(u1, t1, b1) - d
        u2 = t2 / s0 * x - b2 * math.expm1(-r2 * h) * d + b2 * r2 / r1 * (math.expm1(-r2 * h) / (r2 * h) + 1) * d1
        d2 = problem(u2, t2, b2) - d
        x = s1 / s0 * x - a1 * math.expm1(-h) * d + a1 / r2 * (math.expm1(-h) / h + 1) * d2
    return x


def dpmpp_2m(problem, x, levels, lower_order_final=True):
    """DPM-Solver++, Algorithm 2."""
    past = []
    for i, (start, end) in enumerate(pairwise(levels)):
        past.append(problem(x, start[1], start[0]))
        h, d = lam(end) - lam(start), past[-1]
        last = i == len(levels) - 2 and (lower_order_final or end[1] == 0)
        if i > 0 and not last:
            r = (lam(start) - lam(levels[i - 1])) / h
            d = (1 + 1 / (2 * r)) * past[-1] - 1 / (2 * r) * past[-2]
        x = end[1] / start[1] * x - end[0] * math.expm1(-h) * d
    return x


def dpm_solver_2m(problem, x, levels, lower_order_final=True):
    """The same in the noise prediction."""
    past = []
    for i, (start, end) in enumerate(pairwise(levels)):
        past.append(eps(problem, x, start))
        e = past[-1]
        last = i == len(levels) - 2 and (lower_order_final or end[1] == 0)
        if i == 0 or last:
            x = transfer(x, e, start, end)
            continue
        h = lam(end) - lam(start)
        r = (lam(start) - lam(levels[i - 1])) / h
        x = end[0] / start[0] * x - end[1] * math.expm1(h) * (e + (e - past[-2]) / (2 * r))
    return x


def _differences(past, levels, i, order):
    """D1 and D2 of the authors' multistep code: first and second differences in units of the coming step."""
    h = lam(levels[i + 1]) - lam(levels[i])
    r0 = (lam(levels[i]) - lam(levels[i - 1])) / h
    first = (past[-1] - past[-2]) / r0
    if order == 2:
        return first, 0.0
    r1 = (lam(levels[i - 1]) - lam(levels[i - 2])) / h
    older = (past[-2] - past[-3]) / r1
    return first + r0 / (r0 + r1) * (first - older), (first - older) / (r0 + r1)


def exact_weights(problem, x, levels, prediction, order, lower_order_final=True):
    """The authors' multistep updates whose differences carry the weights of the exact integral ("heun", 3M)."""
    past = []
    for i, (start, end) in enumerate(pairwise(levels)):
        (a0, s0), (a1, s1) = start, end
        past.append(problem(x, s0, a0) if prediction == "data" else eps(problem, x, start))
        p = min(order, i + 1, len(levels) - 1 - i if lower_order_final else order)
        if p == 1 or s1 == 0:
            x = transfer(x, (x - a0 * past[-1]) / s0 if prediction == "data" else past[-1], start, end)
            continue
        h = lam(end) - lam(start)
        d1, d2 = _differences(past, levels, i, p)
        if prediction == "data":
            phi = [math.expm1(-h), math.expm1(-h) / h + 1, (math.expm1(-h) + h) / h**2 - 0.5]
            x = s1 / s0 * x - a1 * phi[0] * past[-1] + a1 * phi[1] * d1 - a1 * phi[2] * d2
        else:
            phi = [math.expm1(h), math.expm1(h) / h - 1, (math.expm1(h) - h) / h**2 - 0.5]
            x = a1 / a0 * x - s1 * phi[0] * past[-1] - s1 * phi[1] * d1 - s1 * phi[2] * d2
    return x


# UniPC (Zhao et al., 2023)


def _unified(differences, positions, h, variant, prediction):
    """``B(h) sum_m a_m D_m / r_m`` with ``a = R^-1 phi / B`` (Algorithms 1 and 2), and the a = 1/2 of App. F."""
    p = len(differences)
    if p == 0:
        return 0.0
    sign = 1 if prediction == "noise" else -1
    scale = h if variant == "bh1" else sign * math.expm1(sign * h)
    phi = [math.exp(sign * h)]
    for n in range(p + 1):
        phi.append(sign * (phi[-1] - 1 / math.factorial(n)) / h)
    wanted = [h * math.factorial(n + 1) * phi[n + 2] / scale for n in range(p)]
    a = np.linalg.solve([[r**n for r in positions] for n in range(p)], wanted) if p > 1 else [0.5]
    return scale * sum(w * d / r for w, d, r in zip(a, differences, positions, strict=True))


def unipc(problem, x, levels, order, variant, prediction, corrector=True, lower_order_final=True):
    """Predict, call the network, correct with the same call; ``x`` is the corrected state."""
    steps, past = len(levels) - 1, []
    m = problem(x, levels[0][1], levels[0][0]) if prediction == "data" else eps(problem, x, levels[0])
    for i, (start, end) in enumerate(pairwise(levels)):
        (a0, s0), (a1, s1) = start, end
        past.append(m)
        if s1 == 0:
            return a1 * (m if prediction == "data" else (x - s0 * m) / a0)
        p, h = min(order, i + 1, steps - i if lower_order_final else order), lam(end) - lam(start)
        r = [(lam(levels[i - k]) - lam(start)) / h for k in range(1, p)]
        differences = [past[-1 - k] - m for k in range(1, p)]
        if prediction == "data":
            base, size = s1 / s0 * x - a1 * math.expm1(-h) * m, a1
        else:
            base, size = a1 / a0 * x - s1 * math.expm1(h) * m, -s1
        x = base + size * _unified(differences, r, h, variant, prediction)
        if i + 1 < steps:
            ahead = problem(x, s1, a1) if prediction == "data" else eps(problem, x, end)
            if corrector:
                x = base + size * _unified([*differences, ahead - m], [*r, 1.0], h, variant, prediction)
            m = ahead
    return x
