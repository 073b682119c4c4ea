"""Our callbacks and loggers that a config may name, beside Composer's."""

from segrecipes.training.callbacks.progress import ProgressBar
from segrecipes.training.callbacks.results import ShowResults

CALLBACKS: dict[str, type] = {'show_results': ShowResults}
LOGGERS: dict[str, type] = {'progress_bar': ProgressBar}
