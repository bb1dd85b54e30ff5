"""The arithmetic of ops on the arrays of one device, written for numpy and for what has its functions.

The reference backend calls these functions on numpy arrays. The backend `jax` prints them into a program, for
`jax.numpy`. So each function changes none of its arguments, and takes and returns arrays.
"""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""An array of numpy, or of what has its functions."""
