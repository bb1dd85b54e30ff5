"""What is predicted for each row of a file, or why nothing is."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Texts = NDArray[np.str_]
Mask = NDArray[np.bool_]


@frozen(eq=False)
class Answer:
    """Predictions for the rows of a table, in the unit of what was measured.

    ``low`` and ``high`` hold 80 % of what is measured; nan where nobody knows. A row that is not answered has nan
    and a ``reason``; the others' is empty.
    """

    predicted: Floats
    low: Floats
    high: Floats
    reason: Texts

    @property
    def answered(self) -> Mask:
        """The rows that have a prediction."""
        return np.asarray(self.reason == "", dtype=np.bool_)

    def where(self, mask: Mask) -> Answer:
        """The rows that ``mask`` picks."""
        return Answer(self.predicted[mask], self.low[mask], self.high[mask], self.reason[mask])
