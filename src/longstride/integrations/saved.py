"""The configuration of the diffusers scheduler and its card: how both are read and saved."""

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
from longstride.integrations.counterparts import counterpart_of
from longstride.integrations.noise_process import PROCESSES, Process
from longstride.integrations.origins import said
from longstride.integrations.own_scheduler import check_process, levels_class_of, process_of
from longstride.integrations.scheduler_settings import SchedulerSettings, assigned_to
from longstride.solvers import SOLVERS

__all__ = ["ConfiguredScheduler"]

#: Settings that belong to a card. A file keeps them; a configuration that goes to another scheduler loses them.
_OF_CARDS = ("card", "strict", "guidance_scale")


class ConfiguredScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A scheduler's settings as diffusers keeps them, and a card beside them.

    A setting that is None means what it means to diffusers' own scheduler of the solver. ``__init__`` takes every
    setting as an argument, because diffusers reads the names of the settings from its signature.

    Raises:
        InputError: an unknown solver or process.
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
        snr_shift_scale: float | None = None,
        timestep_type: str | None = None,
        stochastic_sampling: bool | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise unknown("solver", solver, SOLVERS)
        if process is not None and process not in PROCESSES:
            raise unknown("process", process, PROCESSES)
        self._card: Card | CardBook | None = None
        self.register_to_config(process=process or process_of(self.config))
        self.register_to_config(**SchedulerSettings.of(self.config).defaults)
        self._settle()

    def _settle(self) -> None:
        """Make what depends on the settings; called once they are known."""

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the settings of another scheduler, such as ``pipe.scheduler.config``.

        Args:
            config: Configuration of any diffusers scheduler.
            return_unused_kwargs: As in diffusers.
            **kwargs: Settings that replace the settings of ``config``, such as ``solver="unipc"``.

        Returns:
            The scheduler. If ``return_unused_kwargs``, a tuple of it and the arguments that are no settings.

        Raises:
            InputError: an unknown solver, or a process that longstride does not know.
        """
        if isinstance(config, Mapping):
            ours = config.get("process") is not None
            if not (ours or kwargs.get("process")):
                check_process(config)
            solver = kwargs.get("solver") or config.get("solver") or "dpmpp_2m"
            # A card belongs to the scheduler that it was given to.
            kwargs = {**dict.fromkeys(("card", "guidance_scale"), None), "strict": False, **kwargs}
            # Levels that were chosen for one solver do not belong to a solver with a class of its own.
            if config.get("levels") == "EulerDiscreteScheduler" and counterpart_of(solver).scheduler_class is not None:
                kwargs.setdefault("levels", None)
            if not ours:
                config = said({**config, **assigned_to(config)})
                kwargs = {"process": process_of({**config, **kwargs}), **kwargs}
            if config.get("levels") is None:
                kwargs = {"levels": levels_class_of(config, solver), **kwargs}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def from_card(cls, card: str | Path | Card | CardBook, config: Any = None, **kwargs: Any) -> Self:
        """A scheduler that runs a calibrated sampler.

        Args:
            card: A card, a book of cards, or the path or hub repository of one.
            config: Configuration of the pipeline's own scheduler, ``pipe.scheduler.config``. It says what the network
                predicts and how pictures get their noise. Default: the one in the card, if the card was calibrated on
                a pipeline.
            **kwargs: Settings that replace the settings of ``config``, such as ``strict=True``.

        Returns:
            The scheduler, with its :attr:`card`.

        Raises:
            CardError: the file is no card.
            InputError: there is no ``config``, neither here nor in the card.
        """
        loaded = card if isinstance(card, (Card, CardBook)) else load_any(card)
        known = loaded.scheduler if isinstance(loaded, Card) else None
        if config is None and known is None:
            raise InputError(
                "this card does not hold the settings of a scheduler: pass the pipeline's, config=pipe.scheduler.config"
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
        """Read ``scheduler_config.json``, and the card beside it if the file names one.

        Args:
            pretrained_model_name_or_path: Folder, file or hub repository, as in diffusers.
            subfolder: Folder inside it, as in diffusers.
            return_unused_kwargs: As in diffusers.
            **kwargs: As in diffusers.

        Returns:
            The scheduler. If ``return_unused_kwargs``, a tuple of it and the arguments that are no settings.

        Raises:
            CardError: the card is missing or damaged.
            InputError: an unknown solver, or a process that longstride does not know.
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
        """The configuration as JSON, without the settings that nobody has set.

        A class that reads the file later takes its own defaults for these settings.
        """
        told = json.loads(super().to_json_string())
        kept = ("solver", "process", "card", "_class_name", "_diffusers_version")
        unset = set(self.config.get("_use_default_values", ())) - set(kept)
        told = {name: value for name, value in told.items() if value is not None and name not in unset}
        return json.dumps(told, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``scheduler_config.json`` and the card beside it.

        Args:
            save_directory: Folder; it is made if it does not exist.
            push_to_hub: As in diffusers.
            **kwargs: As in diffusers.
        """
        if self._card is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._card.save(Path(save_directory) / CARD_FILE)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def process(self) -> Process:
        """Process of the pipeline, which scales its states."""
        chosen: Process = self.config.process
        return chosen

    @property
    def card(self) -> Card | CardBook | None:
        """The card or book, or None."""
        return self._card


def _beside(place: Any, subfolder: str | None, name: str, options: Mapping[str, Any]) -> Path:
    """Path of a saved scheduler's card: in its folder, or downloaded from its repository on the hub."""
    if Path(place).is_file():
        return Path(place).parent / name
    if Path(place).is_dir():
        return Path(place) / (subfolder or "") / name
    known = ("cache_dir", "revision", "token", "local_files_only")
    chosen = {key: options[key] for key in known if key in options}
    return downloaded(str(place), name, subfolder=subfolder, **chosen)
