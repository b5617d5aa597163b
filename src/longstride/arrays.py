"""The type of the numbers outside the network."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array"]

#: A NumPy array in double precision, of any shape.
Array: TypeAlias = NDArray[np.float64]
