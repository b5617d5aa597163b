"""The settings of the diffusers scheduler, and how they and its card are read and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config

from longstride.book import CardBook, load_any
from longstride.card import CARD_FILE, Card
from longstride.documents import downloaded
from longstride.errors import InputError, unknown
from longstride.integrations.reference import (
    PROCESSES,
    Process,
    check_known,
    has_class,
    kind_of,
    process_of,
    settings_of,
)
from longstride.solvers import SOLVERS

__all__ = ["ConfiguredScheduler"]

#: Settings that belong to a card.
_OF_CARDS = ("card", "strict", "guidance_scale")


class ConfiguredScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Settings as diffusers keeps them, and a card beside them.

    ``None`` stands for what diffusers' own scheduler of the solver makes of a setting.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int | None = None,
        beta_start: float | None = None,
        beta_end: float | None = None,
        beta_schedule: str | None = None,
        trained_betas: Sequence[float] | None = None,
        prediction_type: str | None = None,
        solver: str = "dpmpp_2m",
        solver_options: dict[str, Any] | None = None,
        strict: bool = False,
        process: str | None = None,
        levels: str | None = None,
        card: str | None = None,
        solver_order: int | None = None,
        solver_type: str | None = None,
        lower_order_final: bool | None = None,
        euler_at_final: bool | None = None,
        predict_x0: bool | None = None,
        skip_prk_steps: bool | None = None,
        thresholding: bool | None = None,
        dynamic_thresholding_ratio: float | None = None,
        sample_max_value: float | None = None,
        clip_sample: bool | None = None,
        clip_sample_range: float | None = None,
        timestep_spacing: str | None = None,
        steps_offset: int | None = None,
        set_alpha_to_one: bool | None = None,
        final_sigmas_type: str | None = None,
        rescale_betas_zero_snr: bool | None = None,
        lambda_min_clipped: float | None = None,
        use_karras_sigmas: bool | None = None,
        use_exponential_sigmas: bool | None = None,
        use_beta_sigmas: bool | None = None,
        use_lu_lambdas: bool | None = None,
        use_flow_sigmas: bool | None = None,
        flow_shift: float | None = None,
        shift: float | None = None,
        shift_terminal: float | None = None,
        use_dynamic_shifting: bool | None = None,
        time_shift_type: str | None = None,
        base_shift: float | None = None,
        max_shift: float | None = None,
        base_image_seq_len: int | None = None,
        max_image_seq_len: int | None = None,
        invert_sigmas: bool | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
        sigma_schedule: str | None = None,
        rho: float | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise unknown("solver", solver, SOLVERS)
        if process is not None and process not in PROCESSES:
            raise unknown("process", process, PROCESSES)
        self._card: Card | CardBook | None = None
        self.register_to_config(process=process or process_of(self.config))
        self.register_to_config(**settings_of(self.config, solver, self.process))
        self._settle()

    def _settle(self) -> None:
        """Called when the settings are known."""

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the settings of another, such as ``pipe.scheduler.config``.

        Args:
            config: Of any diffusers scheduler.
            return_unused_kwargs: As in diffusers.
            **kwargs: Settings in place of those of ``config``: ``solver="unipc"``.
        """
        if isinstance(config, Mapping):
            if not (config.get("process") or kwargs.get("process")):
                check_known(config)
            solver = kwargs.get("solver") or config.get("solver") or "dpmpp_2m"
            # A card belongs to the scheduler that it was given to, and levels that were chosen for a solver to that.
            kwargs = {**dict.fromkeys(("card", "guidance_scale"), None), "strict": False, **kwargs}
            if config.get("levels") == "EulerDiscreteScheduler" and has_class(solver):
                kwargs.setdefault("levels", None)
            read = {"process": process_of(config), "levels": kind_of(config, solver)}
            kwargs = {**{name: value for name, value in read.items() if config.get(name) is None}, **kwargs}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def from_card(cls, card: str | Path | Card | CardBook, config: Any = None, **kwargs: Any) -> Self:
        """A scheduler that runs a calibrated sampler.

        Args:
            card: A card, a book of cards, or the path of one.
            config: Of the pipeline's own scheduler, ``pipe.scheduler.config``: says what the network predicts and how
                pictures get their noise. Default: the one in the card, where it was calibrated on a pipeline.
            **kwargs: Settings in place of those of ``config``, such as ``strict=True``.

        Raises:
            CardError: the file is no card.
            InputError: there is no ``config``, neither here nor in the card.
        """
        loaded = card if isinstance(card, (Card, CardBook)) else load_any(card)
        known = loaded.scheduler if isinstance(loaded, Card) else None
        if config is None and known is None:
            raise InputError(
                "this card does not hold the settings of a scheduler: pass those of the pipeline, pipe.scheduler.config"
            )
        config = known if config is None else config
        made: Self = cls.from_config(config, **{**kwargs, "card": CARD_FILE})
        made._card = loaded
        return made

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read ``scheduler_config.json`` and, where it names one, the card beside it; arguments as in diffusers.

        Raises:
            CardError: the card is missing or damaged.
        """
        place = pretrained_model_name_or_path
        config, others = cls.load_config(place, subfolder=subfolder, return_unused_kwargs=True, **kwargs)
        kept = {name: config[name] for name in _OF_CARDS if config.get(name) is not None}
        made = cls.from_config(config, return_unused_kwargs=return_unused_kwargs, **{**kept, **others})
        scheduler = made[0] if return_unused_kwargs else made
        if scheduler.config.card:
            scheduler._card = load_any(_beside(place, subfolder, scheduler.config.card, kwargs))
        return made

    def to_json_string(self) -> str:
        """The configuration without what nobody has set: each class has defaults of its own."""
        told = json.loads(super().to_json_string())
        kept = ("solver", "process", "card", "_class_name", "_diffusers_version")
        unset = set(self.config.get("_use_default_values", ())) - set(kept)
        told = {name: value for name, value in told.items() if value is not None and name not in unset}
        return json.dumps(told, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``scheduler_config.json`` and the card beside it; arguments as in diffusers."""
        if self._card is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._card.save(Path(save_directory) / CARD_FILE)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def process(self) -> Process:
        """Scale of the pipeline's states."""
        chosen: Process = self.config.process
        return chosen

    @property
    def card(self) -> Card | CardBook | None:
        """The card or book, or None."""
        return self._card


def _beside(place: Any, subfolder: str | None, name: str, options: Mapping[str, Any]) -> Path:
    """The card of a saved scheduler: a file of its folder, or of its repository on the hub."""
    if Path(place).is_file():
        return Path(place).parent / name
    if Path(place).is_dir():
        return Path(place) / (subfolder or "") / name
    known = ("cache_dir", "revision", "token", "local_files_only")
    chosen = {key: options[key] for key in known if key in options}
    return downloaded(str(place), name, subfolder=subfolder, **chosen)
