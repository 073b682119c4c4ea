"""Composer's EMA, its average updated in one call over all tensors instead of three for each."""

import composer.algorithms
from composer.core import Event, State
from composer.loggers import Logger
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(composer.algorithms.EMA):  # of the same name, by which checkpoints know it
    """Exponential moving average of weights and buffers; counters are copied, where Composer averages and truncates."""

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event not in (Event.BATCH_END, Event.EPOCH_END):
            super().apply(event, state, logger)
            return
        assert self.ema_model is not None and self.smoothing is not None
        averages = {**self.ema_model.named_parameters_dict, **self.ema_model.named_buffers_dict}
        current = {**dict(state.model.named_parameters()), **dict(state.model.named_buffers())}
        floats = [name for name in averages if averages[name].is_floating_point()]
        update = get_ema_multi_avg_fn(self.smoothing)
        update([averages[name] for name in floats], [current[name].detach() for name in floats], None)
        for name in averages.keys() - floats:
            averages[name].copy_(current[name])
