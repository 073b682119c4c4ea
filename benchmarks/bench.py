"""What the benchmarks share: interleaved timing, tables, targets, and the record of a run."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / 'benchmarks' / 'records'
PACKAGES = ('torch', 'torchvision', 'mosaicml', 'mosaicml-streaming', 'mmsegmentation', 'opencv-python', 'pillow')

sys.path.insert(0, str(ROOT))  # the checkout's package, installed or not


def pin(threads: int = 1) -> None:
    """Run this process on its first ``threads`` cores, with as many threads in torch and OpenCV."""
    import cv2
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 2, sync: Callable[[], Any] | None = None
) -> dict[str, list[float]]:
    """Time the candidates in turn, A B A B …: seconds of each call, after ``warmup`` calls that do not count.

    ``sync`` is called before each reading of the clock; a GPU needs ``torch.cuda.synchronize``.
    """
    sync = sync or (lambda: None)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(-warmup, rounds):
        for name, call in candidates.items():
            sync()
            started = time.perf_counter()
            call()
            sync()
            if index >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


@dataclass
class Table:
    """Rows of measured values under one unit. ``extra`` holds further columns of a row by their heading."""

    title: str
    unit: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, values: Sequence[float], **extra: Any) -> float:
        """Add a row of measured values and return their median."""
        median = statistics.median(values)
        self.rows.append(
            {'name': name, 'median': median, 'min': min(values), 'max': max(values), 'n': len(values), 'extra': extra}
        )
        return median


@dataclass
class Benchmark:
    """One question, its tables, and what was to be reached. ``name`` is the script's, and the record's."""

    name: str
    question: str
    tables: list[Table] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, unit: str = 'ms') -> Table:
        self.tables.append(Table(title, unit))
        return self.tables[-1]

    def target(
        self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None, why: str = ''
    ) -> None:
        """What was to be reached, and was it. ``why`` says what the rest is spent on where it was not."""
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        wanted = f'≥ {at_least:g}' if at_least is not None else f'≤ {at_most:g}'
        self.targets.append({'what': what, 'wanted': wanted, 'value': value, 'met': met, 'why': '' if met else why})

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None:
        """Print all tables and append the record to ``records/<name>.jsonl``."""
        console = Console()
        console.print(f'\n{self.question}', style='bold')
        for table in self.tables:
            extra = list(dict.fromkeys(key for row in table.rows for key in row['extra']))
            printed = RichTable('', f'median, {table.unit}', 'min–max', 'n', *extra, title=table.title)
            for row in table.rows:
                printed.add_row(*cells(row, extra))
            console.print(printed)
        for target in self.targets:
            console.print(target_line(target))
        for note in self.notes:
            console.print(note)
        record = {
            'date': date.today().isoformat(),
            'command': ' '.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]]),
            'commit': commit(),
            'hardware': hardware(),
            'versions': versions(),
            **asdict(self),
        }
        RECORDS.mkdir(exist_ok=True)
        with (RECORDS / f'{self.name}.jsonl').open('a') as file:
            file.write(json.dumps(record, ensure_ascii=False) + '\n')


def cells(row: Mapping[str, Any], extra: Sequence[str]) -> list[str]:
    """A row as text, with the columns named by ``extra``."""
    spread = f'{number(row["min"])}–{number(row["max"])}' if row['n'] > 1 else ''
    more = [row['extra'].get(key, '') for key in extra]
    return [
        row['name'],
        number(row['median']),
        spread,
        str(row['n']),
        *(number(value) if isinstance(value, float) else str(value) for value in more),
    ]


def number(value: float) -> str:
    """Three significant digits, with an exponent only below a thousandth."""
    if 0 < abs(value) < 0.001:
        return f'{value:.1e}'
    digits = max(0, 2 - (len(f'{abs(value):.0f}') - 1)) if abs(value) >= 1 else 3
    return f'{value:.{digits}f}'


def target_line(target: Mapping[str, Any]) -> str:
    verdict = 'reached' if target['met'] else 'NOT reached'
    why = f' {target["why"]}' if target['why'] else ''
    return f'{target["what"]}: {number(target["value"])}, wanted {target["wanted"]}: {verdict}.{why}'


def peak_extra_bytes(call: Callable[[], Any]) -> int:
    """The most memory ``call`` held at a time, beyond what was held before: on the GPU if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew: man 5 proc
    before = _resident_bytes('VmRSS')
    call()
    return _resident_bytes('VmHWM') - before


def _resident_bytes(field: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{field}:'))


def device() -> str:
    import torch

    return 'cuda' if torch.cuda.is_available() else 'cpu'


def sync() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def versions() -> dict[str, str]:
    found = {'python': platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    try:
        git = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--exclude=*']
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f'{torch.cuda.get_device_name()}, torch {torch.__version__}'
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    model = next((line.partition(': ')[2] for line in lines if line.startswith('model name')), platform.processor())
    return f'{model.strip()}, {os.cpu_count()} cores'
