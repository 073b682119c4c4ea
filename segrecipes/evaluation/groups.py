"""Images that belong together, such as a patient's slices, scored as one volume."""

from collections.abc import Callable

import numpy as np
from composer.utils import dist


class Groups:
    """Is told of every image of an evaluation.

    Args:
        group_of: the name of an image's group, by its uid; images for which it is None are left out.
    """

    def __init__(self, group_of: Callable[[str], str | None]):
        self.group_of = group_of
        self.counts: dict[str, np.ndarray] = {}  # by uid: a rank's last batch may be filled up with what another has

    def add(self, uid: str, counts: np.ndarray) -> None:
        """(3, C) pixels of each class: right, of the truth, of the prediction."""
        if self.group_of(uid) is not None:
            self.counts[uid] = counts

    def gather(self) -> None:
        """Bring together what all ranks have; the same on each of them afterwards."""
        for counts in dist.all_gather_object(self.counts):
            self.counts |= counts

    def dice(self) -> dict[str, np.ndarray]:
        """(C,) of each group, in percent: 2 |A∩B| / (|A| + |B|) over all its pixels; NaN for a class in neither."""
        totals: dict[str, np.ndarray] = {}
        for uid in sorted(self.counts):
            group = self.group_of(uid)
            assert group is not None
            totals[group] = totals.get(group, 0) + self.counts[uid]
        with np.errstate(divide='ignore', invalid='ignore'):
            return {group: 200 * right / (true + predicted) for group, (right, true, predicted) in totals.items()}
