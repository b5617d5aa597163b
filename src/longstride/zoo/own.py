"""Models of the user's own code: ``my_module:my_model``, a :class:`~longstride.Model` or a function that makes one."""

from __future__ import annotations

import importlib
import os
import sys

from longstride.errors import InputError
from longstride.zoo.model import Model

__all__ = ["is_own", "load_own"]


def is_own(name: str) -> bool:
    """Whether a name is of the form ``module:attribute``, and not a path."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_own(name: str) -> Model:
    """The model that ``module:attribute`` names; modules of the working directory are found, too.

    Args:
        name: Module and attribute: a model, or a function without arguments that returns one.

    Raises:
        InputError: there is no such module or attribute, its code raises an error, or it is no model.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
        made = found if isinstance(found, Model) else found()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"cannot load {name!r} ({type(error).__name__}: {reason})") from None
    if not isinstance(made, Model):
        raise InputError(
            f"{name} must be a longstride.Model, or a function without arguments that returns one, got "
            f"{type(made).__name__}"
        )
    return made
