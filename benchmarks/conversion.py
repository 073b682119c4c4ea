"""How fast do image files become shards, against streaming's own ADE20K converter, and in how much memory?

    python benchmarks/conversion.py

Streaming's ``main`` insists on all 22,206 samples of ADE20K, so its parts are called here as it calls them.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from json import loads
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench
import numpy as np
import photographs
import psutil
from streaming import MDSWriter
from streaming.base.format import reader_from_json
from streaming.vision.convert import ade20k

from segrecipes.datasets.table import DATASETS
from segrecipes.storage.convert import convert
from segrecipes.storage.folders import find_pairs
from segrecipes.storage.writer import plan_shards, read_sample

CORES = 2
SAMPLES = 300
SIZES = (1, 4, 16)  # times SAMPLES
SIZE_LIMIT, HASHES = 1 << 22, ['sha1', 'xxh64']  # the defaults of both

Converter = Callable[[Path, Path], Any]  # dataset, folder to write to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5)
    photographs.add_argument(parser)
    options = parser.parse_args()

    bench.pin(CORES)
    report = bench.Benchmark('conversion', 'How fast do image files become shards, and in how much memory?')
    report.note(f'Samples: {photographs.describe(options.images)}, shifted and mirrored, all 683×512.')
    with TemporaryDirectory() as folder:
        datasets = write_datasets(Path(folder), options.images)
        check_agreement(datasets[1], Path(folder))
        compare_speed(report, datasets, Path(folder), options.rounds)
        compare_memory(report, datasets, Path(folder))
    report.finish()


# The two converters


def ours(dataset: Path, out: Path, workers: int = CORES) -> None:
    options = {'size_limit': SIZE_LIMIT, 'hashes': HASHES, 'progress_bar': False}
    convert(dataset, out, splits=['train'], num_workers=workers, **options)


def streamings(dataset: Path, out: Path) -> None:
    samples = ade20k.get(str(dataset), 'train', shuffle=True)
    columns = {'uid': 'bytes', 'x': 'jpeg', 'y': 'png'}
    with MDSWriter(out=str(out / 'train'), columns=columns, size_limit=SIZE_LIMIT, hashes=HASHES) as writer:
        for sample in ade20k.each(samples):
            writer.write(sample)


CONVERTERS: dict[str, Converter] = {'ours': ours, 'streaming': streamings}


# What they are given, and whether they do the same


def write_datasets(folder: Path, images: Path) -> dict[int, Path]:
    """One dataset a size; the larger ones are links to the files of the smallest."""
    first = photographs.write_dataset(folder / '1', photographs.read(images), SAMPLES)
    more = {times: photographs.link_dataset(folder / str(times), first, SAMPLES, times) for times in SIZES[1:]}
    return {1: first, **more}


def check_agreement(dataset: Path, folder: Path) -> None:
    files = (photographs.training_files(dataset, index) for index in range(SAMPLES))
    expected = {image.stem[-8:].encode(): (image.read_bytes(), mask.read_bytes()) for image, mask in files}
    for name, converter in CONVERTERS.items():
        converter(dataset, folder / name)
        assert read_back(folder / name / 'train') == expected, (
            f'shards of {name} do not hold the files that it was given'
        )
        shutil.rmtree(folder / name)


def read_back(folder: Path) -> dict[bytes, tuple[bytes, bytes]]:
    """uid → the two files as they are stored."""
    samples = {}
    for entry in loads((folder / 'index.json').read_text())['shards']:
        shard: Any = reader_from_json(str(folder), None, entry)
        for index in range(entry['samples']):
            data = shard.get_sample_data(index)
            uid, image, mask = (int(end) for end in 12 + np.cumsum(np.frombuffer(data[:12], np.uint32)))
            samples[data[12:uid]] = data[uid:image], data[image:mask]
    return samples


# What is measured


def compare_speed(report: bench.Benchmark, datasets: dict[int, Path], folder: Path, rounds: int) -> None:
    table = report.table(f'Conversion on {CORES} cores', 'MB/s')
    out, speed = folder / 'out', {}
    for times, dataset in datasets.items():
        megabytes = sum(file.stat().st_size for file in dataset.rglob('*.*')) / 1e6
        candidates = {name: partial(converter, dataset, out / name) for name, converter in CONVERTERS.items()}
        # Removal takes a turn of its own, so that it is in nobody's time.
        seconds = bench.interleave(candidates | {'clean': partial(shutil.rmtree, out)}, rounds, warmup=1)
        for name in CONVERTERS:
            row = f'{name}, {times * SAMPLES} samples'
            speed[name] = table.add(row, [megabytes / time for time in seconds[name]], MB=megabytes)
    writing = compare_parts(report, datasets[SIZES[-1]], out, rounds)
    report.target(
        f"speed of ours over streaming's converter, {SIZES[-1] * SAMPLES} samples",
        speed['ours'] / speed['streaming'],
        at_least=1.7,
        why=f'Reading, hashing and writing is {writing:.0%} of the time of one worker; streaming neither plans shards '
        'nor opens the images, and starts no processes.',
    )


def compare_parts(report: bench.Benchmark, dataset: Path, out: Path, rounds: int) -> float:
    """Where the time of ours goes; returns the share of what streaming's converter does too."""
    pairs = find_pairs(dataset, 'train', DATASETS['ade20k'])
    candidates = {
        'whole': partial(ours, dataset, out / 'ours', workers=1),
        'find': lambda: find_pairs(dataset, 'train', DATASETS['ade20k']),
        'plan': lambda: plan_shards('train', pairs, SIZE_LIMIT),
        'read': lambda: [file.read_bytes() for pair in pairs for file in (pair.image, pair.mask)],
        'read and check': lambda: [read_sample(pair) for pair in pairs],
        'clean': partial(shutil.rmtree, out),
    }
    seconds = {name: np.array(times) for name, times in bench.interleave(candidates, rounds, warmup=1).items()}
    before = seconds['find'] + seconds['plan']
    checks = seconds['read and check'] - seconds['read']
    writing = seconds['whole'] - before - checks
    table = report.table(f'Where the time of ours goes with one worker, {SIZES[-1] * SAMPLES} samples', 'ms')
    for name, part in {
        'list the files': seconds['find'],
        'plan the shards': seconds['plan'],
        'open both images and compare their sizes': checks,
        'read, hash, write': writing,
    }.items():
        table.add(name, [1e3 * float(time) for time in part], share=f'{np.median(part / seconds["whole"]):.0%}')
    return float(np.median(writing / seconds['whole']))


def compare_memory(report: bench.Benchmark, datasets: dict[int, Path], folder: Path) -> None:
    table = report.table('Peak memory of all processes together, the interpreter and imports included', 'MB')
    for name, converter in CONVERTERS.items():
        peaks = peak_memory(converter, datasets, folder / name)
        for times, peak in peaks.items():
            table.add(f'{name}, {times * SAMPLES} samples', [peak / 1e6])
        report.target(f'peak memory of {name}, {SIZES[-1]}× over 1×', peaks[SIZES[-1]] / peaks[SIZES[0]], at_most=1.1)


def peak_memory(converter: Converter, datasets: dict[int, Path], out: Path) -> dict[int, int]:
    """Bytes, memory shared between processes counted once, of a fresh process that converts one after the other."""
    peaks = {}
    with ProcessPoolExecutor(1, get_context('spawn'), start_workers_by, (get_start_method(),)) as pool:
        process = psutil.Process(pool.submit(os.getpid).result())
        for times, dataset in datasets.items():
            job = pool.submit(converter, dataset, out / str(times))
            peaks[times] = 0
            while not job.done():
                peaks[times] = max(peaks[times], resident(process))
                time.sleep(0.01)
            job.result()
    return peaks


def start_workers_by(method: str) -> None:
    """A spawned process would spawn its own workers too, whatever is usual."""
    set_start_method(method, force=True)


def resident(process: psutil.Process) -> int:
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:  # a worker that has just ended
            continue
    return total


if __name__ == '__main__':
    main()
