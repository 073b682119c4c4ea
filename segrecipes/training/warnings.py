"""What the libraries say about what is meant here."""

import re
import warnings

KNOWN = (
    'The memory monitor only works on CUDA devices',
    'Cannot split ',  # the last, smaller batch of an evaluation
    'SAM has known issues of weight mismatch',  # Composer's; ours has not
    'No batches were trained for global rank',  # of an epoch that was saved at its last one; fewer end in an error
    'Negative label indices are being ignored',  # MixUp, on ignored pixels
)


def ignore_known_warnings() -> None:
    """A user can do nothing about them."""
    for message in KNOWN:
        warnings.filterwarnings('ignore', message=re.escape(message))
