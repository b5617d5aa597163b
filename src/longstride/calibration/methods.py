"""Every calibration method by name."""

from __future__ import annotations

from longstride.calibration.endpoint.method import GaussNewtonMethod
from longstride.calibration.method import Method
from longstride.calibration.rowwise.iia import PUBLISHED
from longstride.calibration.rowwise.method import GlobalMethod, IIAMethod
from longstride.errors import unknown

__all__ = ["DEFAULT", "METHODS", "method_of"]

#: Name of the default method.
DEFAULT = "gauss_newton"
#: ``gauss_newton`` fits all rows together. ``global`` fits row by row to reference trajectories, ``iia`` row by row to
#: fine solutions of single steps. The other names are settings of ``iia`` that its paper names.
METHODS: dict[str, Method] = {
    "gauss_newton": GaussNewtonMethod(),
    "global": GlobalMethod(),
    "iia": IIAMethod(),
    **{name: IIAMethod(name, one.label, one.settings, one.bases) for name, one in PUBLISHED.items()},
}


def method_of(method: str | Method) -> Method:
    """A method by its name, or itself.

    Raises:
        InputError: there is no such method.
    """
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    return METHODS[method]
