"""Online adaptation: live reference runs teach a card, and what it learns is proposed, never put in use."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from longstride.adaptation.intake import Reason, per_sample, refusals
from longstride.adaptation.kept import Kept
from longstride.adaptation.learning import added, decide, measured_sample
from longstride.adaptation.proposing import Proposal, next_table, proposed_card
from longstride.adaptation.records import AdaptationStatus, Observed
from longstride.arrays import Array
from longstride.calibration.endpoint.jacobian import calls_of_jacobian
from longstride.card import Card, ModelInfo
from longstride.errors import InputError, StoreError
from longstride.journal import digest, table_digest
from longstride.network import Network, as_network
from longstride.sampler import DenoiserLike

__all__ = ["Adaptation"]

_log = logging.getLogger(__name__)


class Adaptation:
    """Learns from live reference runs how a card should change, and proposes a better card.

    :meth:`observe` takes a request whose converged solution was computed anyway. It measures how the end of the card's
    run depends on its free numbers, and adds this to normal equations that slowly forget. Their solution, within a box
    around the card that the calibration made, becomes a candidate if it promises enough. It is tried on the samples
    that follow. :meth:`proposal` returns a card once the candidate is surely better there than the card in use and the
    base, and the calibration's gate accepts it. A :class:`~longstride.Rollout` then puts it before the traffic, and
    :meth:`settle` tells how that ended.

    Several threads and processes may share a store; open it anew after a fork. A fault of the store fails no request.

    Args:
        card: The card that the calibration made; None: that of the store.
        store: File of the state, made if it is missing; None: the state ends with the object.
        timeout: Seconds that a write waits for the writes of other processes.
        **settings: See :class:`~longstride.adaptation.AdaptationSettings`. A store keeps those that it was made with.

    Attributes:
        settings: The settings.
        trouble: The fault of the store that was met last, until it is over; None: none.

    Raises:
        InputError: a setting cannot be used, the store adapts another card or was made with other settings, or the card
            needs its guard.
        StoreError: the store cannot be used, or is damaged.

    Examples:
        >>> import torch, longstride as ls
        >>> def denoiser(x, sigma):
        ...     return x / (1 + 4 * sigma**2)
        >>> table = ls.build("ddim", ls.grid("karras", 3, sigma_min=0.01, sigma_max=10.0))
        >>> noise = 10 * torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
        >>> card = ls.calibrate(denoiser, noise, table, method="iia", monitor=0).card
        >>> with ls.Adaptation(card) as adaptation:
        ...     for one in noise[:8].split(1):
        ...         converged = ls.solve_reference(denoiser, one, table).samples
        ...         seen = adaptation.observe(denoiser, one, converged)
        ...     adaptation.proposal() is None, adaptation.status().counters.used
        (True, 8)
    """

    def __init__(
        self, card: Card | None, store: str | Path | None = None, *, timeout: float = 5.0, **settings: Any
    ) -> None:
        self._kept = Kept(card, store, timeout, settings)
        self.settings = self._kept.settings
        self.trouble: str | None = None

    @property
    def card(self) -> Card:
        """The card in use: the calibration's, or the proposal that was adopted last.

        Raises:
            StoreError: the store cannot be read, or is damaged.
        """
        return self._kept.cards().current

    @property
    def price(self) -> int:
        """Network calls of every sample that is used, beside those of its converged solution and of trials."""
        return calls_of_jacobian(self._kept.cards().parameters)

    # Requests

    @torch.inference_mode()
    def observe(
        self,
        denoiser: DenoiserLike,
        noise: Tensor,
        converged: Tensor,
        *,
        flagged: Tensor | Array | bool | None = None,
    ) -> Observed:
        """Learn from a request.

        Each sample that is used costs :attr:`price` network calls; during a trial twice the calls of the card more, and
        on the first eight samples of a trial six times. Samples are refused before they cost or count anything if the
        monitor flagged them, if they hold NaN or infinity, if their noise is no white noise of the first level, or if
        the same noise has been seen before.

        Args:
            denoiser: The network, as it answered the request.
            noise: First states of the request, ``(B, *)``.
            converged: Their converged solutions ``(B, *)``.
            flagged: Which samples the monitor flagged, ``(B,)`` or for all; None: none.

        Returns:
            What became of the samples; nothing was used while :attr:`trouble` tells of a fault of the store.

        Raises:
            InputError: tensors that do not fit, or a network with another guidance scale than the card's.
        """
        network = as_network(denoiser)
        if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.ndim == 0:
            raise InputError("noise must be a floating-point tensor (B, ...)")
        if noise.shape != converged.shape:
            raise InputError(f"noise has shape {tuple(noise.shape)}, and converged {tuple(converged.shape)}")
        noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
        try:
            found = self._observe(network, noise, converged.to(noise), per_sample(flagged, len(noise)))
        except StoreError as error:
            if self.trouble is None:
                _log.warning("%s; nothing is learnt until this is over", error)
            self.trouble = str(error)
            return Observed()
        self.trouble = None
        return found

    def _observe(self, network: Network, noise: Tensor, converged: Tensor, flagged: list[bool]) -> Observed:
        state, cards = self._kept.read()
        scale, own = network.guidance, cards.current.model.guidance
        if scale is not None and scale != own:
            raise InputError(f"the card is for guidance {own}, and the network has {scale}")
        chosen, refused = self._taken(noise, converged, flagged, float(cards.table.sigmas[0]))
        used, calls, won = 0, 0, False
        for n in chosen:
            part = torch.tensor([n], device=noise.device)
            before = network.calls
            sample = measured_sample(state, cards, self.settings, network.select(part), noise[part], converged[part])
            spent = network.calls - before
            with self._kept.writing() as (now, now_cards):
                reason = added(now, state, sample, self.settings)
                if reason is None:
                    decide(now, now_cards, self.settings, network.schedule)
                now.counters = now.counters.plus(used=int(reason is None), calls=spent)
                now.counters = now.counters if reason is None else now.counters.refusing(reason)
            state, cards = now, now_cards
            refused += [] if reason is None else [reason]
            used, calls, won = used + (reason is None), calls + spent, won or (reason is None and bool(now.won))
        return Observed(used, tuple(refused), calls, won)

    def _taken(
        self, noise: Tensor, converged: Tensor, flagged: list[bool], level: float
    ) -> tuple[list[int], list[Reason]]:
        """Indices of the samples to use, and why others are refused; noted in the store before any work."""
        reasons = refusals(noise, level, converged)
        reasons = ["flagged" if flag else reason for flag, reason in zip(flagged, reasons, strict=True)]
        fit = [n for n, reason in enumerate(reasons) if reason is None]
        with self._kept.writing() as (state, _):
            chosen: list[int] = []
            for n in fit:
                if len(chosen) == self.settings.samples:
                    state.counters = state.counters.plus(over=1)
                elif self._kept.claim([digest(noise[n])])[0]:
                    chosen.append(n)
                else:
                    reasons[n] = "repeated"
            refused = [reason for reason in reasons if reason is not None]
            state.counters = state.counters.plus(samples=len(noise))
            for reason in refused:
                state.counters = state.counters.refusing(reason)
        return chosen, refused

    # Proposals

    def proposal(self, model: ModelInfo | None = None) -> Proposal | None:
        """The card that surely won, for a roll-out; the same one until :meth:`settle` is called; None: there is none.

        Args:
            model: The new card's description of the model; default: that of the card in use, without the digest of its
                weights, which may have changed.

        Raises:
            StoreError: the store cannot be used, or is damaged.
        """
        with self._kept.writing() as (state, cards):
            made = self._kept.proposal()
            if made is None and state.won and state.trial is not None:
                card, trial = proposed_card(state, cards, self.settings, model), state.trial
                move = cards.move(cards.of(trial))
                made = Proposal(card, state.won, trial.errors(), len(trial.squared), move)
                self._kept.put_proposal(made)
        return made

    def settle(self, *, adopted: bool) -> None:
        """Tell how the roll-out of the proposal ended.

        Args:
            adopted: Whether the proposal is the card in use from now on; else it is dropped.

        Raises:
            InputError: there is no proposal that waits.
            StoreError: the store cannot be used, or is damaged.
        """
        with self._kept.writing() as (state, cards):
            made = self._kept.proposal()
            if made is None or state.trial is None:
                raise InputError("there is no proposal that waits: ask proposal() first")
            if adopted:
                change = state.trial.values - cards.values
                latest = tuple(new for new, _, _ in state.trial.squared)
                state.sums = state.sums.moved(change, latest)
                state.lineage = (*state.lineage, table_digest(cards.of(state.trial))[:16])
                self._kept.put_card(made.card)
                state.changed_card()
            else:
                state.drop_trial(too_far=True)
            state.counters = state.counters.plus(adopted=int(adopted), rejected=int(not adopted))
            self._kept.put_proposal(None)

    # What is known

    def status(self) -> AdaptationStatus:
        """Where the adaptation stands.

        Raises:
            StoreError: the store cannot be read, or is damaged.
        """
        state, cards = self._kept.read()
        doing: Literal["collecting", "trying", "proposed"] = "collecting" if state.trial is None else "trying"
        coming = next_table(state, cards, self.settings) if state.trial is None else cards.of(state.trial)
        return AdaptationStatus(
            "proposed" if state.won else doing,
            state.counters,
            state.sums.effective,
            0 if state.trial is None else len(state.trial.squared),
            cards.move(cards.table),
            cards.move(coming),
            self.settings.bound,
            state.lineage,
            self.trouble,
        )

    def close(self) -> None:
        """Close the file."""
        self._kept.close()

    def __enter__(self) -> Adaptation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
