"""What pipelines read of their scheduler that belongs to diffusers' own classes: served if it is a fact, or refused."""

from __future__ import annotations

from typing import Any

from longstride.errors import InputError
from longstride.integrations.noise_process import PRECONDITIONED, Process
from longstride.integrations.scheduler_settings import SchedulerSettings

__all__ = ["NotServed", "OthersOwn"]

#: Tables of the process, which the pipelines of Text2Video-Zero and others read.
_TABLES = ("betas", "alphas", "final_alpha_cumprod")
#: What the pipelines of diffusers read of the inside of a solver, and why a table has nothing to give.
_HISTORY = "the history of its own solver: a run of longstride keeps another one"
_STOCHASTIC = "the noise of a sampler that draws fresh noise, and this sampler draws none"
_INSIDE = {
    **dict.fromkeys(("model_outputs", "last_sample", "lower_order_nums", "convert_model_output"), _HISTORY),
    **dict.fromkeys(("dpm_solver_first_order_update", "_init_step_index", "_sigma_to_alpha_sigma_t"), _HISTORY),
    **dict.fromkeys(("_get_variance", "batch_step_no_noise", "_is_ode_scheduler", "eta", "undo_step"), _STOCHASTIC),
    **dict.fromkeys(("step_pred", "step_correct", "set_sigmas", "add_noise_to_input", "schedule"), _STOCHASTIC),
    **dict.fromkeys(_TABLES, "a table of betas, which the scheduler of this process and solver does not have"),
    "ori_start_sigmas": "stages of resolution, which this sampler does not have",
}


class NotServed(InputError, AttributeError):
    """A pipeline reads something of its scheduler that this scheduler does not have; ``hasattr`` says so, too."""


class OthersOwn:
    """What a scheduler answers to pipelines that read what belongs to diffusers' own classes."""

    config: Any
    process: Process

    def __getattr__(self, name: str) -> Any:
        """A table of the process.

        Raises:
            NotServed: the name belongs to the inside of another scheduler.
            AttributeError: there is no such name.
        """
        if name not in _INSIDE or "_internal_dict" not in self.__dict__:
            return super().__getattr__(name)  # type: ignore[misc]
        if name in _TABLES:
            found = getattr(SchedulerSettings.of(self.config).own_scheduler, name, None)
            if found is not None:
                return found
        raise NotServed(
            f"this pipeline reads {name} of its scheduler, {_INSIDE[name]}; keep the pipeline's own scheduler"
        )

    @property
    def _step_index(self) -> int | None:
        """The counter of diffusers' classes, which some pipelines move.

        Raises:
            InputError: always.
        """
        raise InputError(
            "this pipeline counts the scheduler's steps itself (Cosmos 1, LEDITS++): a run of longstride cannot be "
            "taken back or moved on, so keep the pipeline's own scheduler"
        )

    def _get_conditioning_c_in(self, sigma: Any) -> Any:
        """Scale of the network's input at a sigma of EDM's preconditioning, a number or a tensor, as Cosmos 1 reads it.

        Raises:
            NotServed: this process has no preconditioning.
        """
        settings = SchedulerSettings.of(self.config)
        if settings.process not in PRECONDITIONED:
            raise NotServed("_get_conditioning_c_in belongs to EDM's preconditioning, which this process does not have")
        return (sigma**2 + settings.sigma_data**2) ** -0.5
