"""MDS shards, from a folder or an object store, with failures that are heard."""

import multiprocessing
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from streaming import StreamingDataset
from streaming.base.dataset import _ShardState
from torch.utils.data import Dataset

from segrecipes.base.errors import MissingPathError
from segrecipes.base.stores import check_readable, is_url, streaming_url
from segrecipes.datasets.row import RGB, Pixels
from segrecipes.storage.decode import DataError, decode_image, decode_mask
from segrecipes.storage.folders import MakeSample


class StreamingSegmentation(StreamingDataset):
    """A StreamingDataset of streaming's ADE20K schema (``uid``, ``x``: image, ``y``: mask) that yields samples.

    Streaming itself ends the epoch, or waits forever, when one of its threads cannot fetch a shard. Here the first
    failure is written where all workers of this rank see it, and each of them raises it.
    """

    def __init__(
        self,
        *,
        path: str,
        local: str | None,
        split: str,
        make_sample: MakeSample | None,
        batch_size: int,
        pixels: Pixels = RGB,
        **kwargs: Any,
    ):
        remote = streaming_url(path) if local is not None else None
        if is_url(path):
            check_readable(f'{path}/{split}')
        elif not (Path(path) / split / 'index.json').is_file():
            raise MissingPathError(f'no MDS dataset: {Path(path) / split / "index.json"} does not exist')
        self.path = f'{path}/{split}'
        self.make_sample = make_sample
        self.pixels = pixels
        self.resume_sample = 0
        self.current_epoch = 0
        # Streaming's own event is one a process; this one reaches all of a rank's workers, as does the message.
        self._event: Any = multiprocessing.Event()
        self._failure: Any = multiprocessing.Array('c', 1024)
        super().__init__(remote=remote, local=local or path, split=split, batch_size=batch_size, **kwargs)
        for shard in self.shards:  # files are decoded by decode.py
            shard.column_encodings = ['bytes' if kind in ('jpeg', 'png') else kind for kind in shard.column_encodings]

    def __str__(self) -> str:
        return self.path

    def __iter__(self):
        yield from super().__iter__()
        self._raise_failure()

    def __getitem__(self, at: Any) -> Any:
        try:
            return super().__getitem__(at)
        except DataError:
            raise
        except Exception as error:
            self._fail(error)
            self._raise_failure()

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        assert self.make_sample is not None
        sample = self.read(sample_id, retry)
        name = f'{sample["uid"]} in {self.path}'
        image, mask = decode_image(sample['x'], name, self.pixels), decode_mask(sample['y'], name)
        return self.make_sample(image, mask, sample['uid'], self.current_epoch)

    def read_mask(self, index: int) -> tuple[str, np.ndarray]:
        """(uid, (H, W) uint8 labels as they are in the file) of a sample."""
        try:
            sample = self.read(index)
        except Exception as error:
            self._fail(error)
            self._raise_failure()
        return sample['uid'], decode_mask(sample['y'], f'{sample["uid"]} in {self.path}')

    def read(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """A sample as it is stored: ``uid`` str, ``x`` and ``y`` bytes of files, or PIL images of ``pil`` columns."""
        sample = super().get_item(sample_id, retry)
        return {**sample, 'uid': sample['uid'].decode()}

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception as error:
            name = self.shards[shard_id].file_pairs[0][0].basename
            self._fail(error if name in str(error) else OSError(f'{name}: {error}'))
            if self.streams[0].remote is not None:
                self.shards[shard_id].evict()  # a file that failed its hash; the next run would take it unchecked
            # Streaming leaves it at PREPARING, for which other workers would wait forever.
            self._shard_states[shard_id] = _ShardState.REMOTE
            raise

    def on_exception(self, future: Future) -> None:
        if future.exception():
            self._fail(future.exception())

    def _fail(self, error: BaseException | None) -> None:
        if not self._failure.value:
            self._failure.value = f'{type(error).__name__}: {error}'.encode()[:1023]
        self._event.set()

    def _raise_failure(self) -> None:
        if self._event.is_set():
            message = ' '.join(self._failure.value.decode(errors='replace').split())
            raise DataError(f'cannot read a shard of {self.path}: {message}')

    def _resume_incr_epoch(self) -> tuple[int, int]:
        self.current_epoch, sample_in_epoch = super()._resume_incr_epoch()
        return self.current_epoch, sample_in_epoch

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        state = super().state_dict(num_samples, from_beginning)
        if from_beginning and num_samples == 0:  # between two epochs streaming names the one that has just ended
            state['epoch'] = max(state['epoch'], self.next_epoch)
        return state

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        super().load_state_dict(obj)
        self.resume_sample = int(obj['sample_in_epoch'])


class MapView(Dataset):
    """Random access to a streamed dataset, for evaluation: indexed by (epoch, index) like a folder."""

    def __init__(self, dataset: StreamingSegmentation):
        self.dataset = dataset

    def __len__(self) -> int:
        return self.dataset.size

    def __str__(self) -> str:
        return str(self.dataset)

    @property
    def size(self) -> int:
        return self.dataset.size

    def read_mask(self, index: int) -> tuple[str, np.ndarray]:
        return self.dataset.read_mask(index)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.dataset[key[1]]
