"""Our callbacks that a config may name, beside Composer's."""

from segrecipes.training.callbacks.results import ShowResults

CALLBACKS: dict[str, type] = {'show_results': ShowResults}
