"""What is to be said of a run beside its figures: when and on what it was, how it ended, how to use what it made."""

import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from segrecipes.base.run_files import CONFIG
from segrecipes.reports.run import Run

CURE = 'Lower optimizer.lr, or use precision=fp32 or amp_bf16 in place of amp_fp16.'


def failure(run: Run) -> str:
    """What must not be overlooked; '' of a run that went well."""
    lost = run.history.lost
    if lost is not None:
        return f'The loss is not finite (NaN) from batch {lost} on: this run learnt nothing after it. {CURE}'
    if run.record and run.record.get('state') != 'finished':
        batch, duration = run.last('batch'), run.record.get('duration')
        after = f' after batch {batch:.0f}' if batch is not None else ''
        how = 'was stopped' if run.record.get('state') == 'stopped' else 'still runs, or was killed'
        return f'This run {how}{after}, before its {duration} were done.'
    return ''


def about(run: Run) -> list[tuple[str, str]]:
    """Names and values, of what the run has recorded."""
    record, seconds = run.record, run.last('seconds')
    images, parameters = _mapping(record.get('images')), record.get('parameters')
    found = {
        'Started': date(record.get('started')),
        'Resumed': ', '.join(map(date, record.get('resumed') or ())),
        'Ended': date(record.get('ended')),
        'Training time': '' if seconds is None else duration(seconds),
        'Hardware': hardware(_mapping(record.get('hardware'))),
        'Images': ', '.join(f'{count:,} {split}' for split, count in images.items()),
        'Parameters': f'{parameters:,}' if parameters else '',
        'Versions': ', '.join(f'{name} {number}' for name, number in _mapping(record.get('versions')).items()),
        'Commit': ', '.join(f'{number} ({name})' for name, number in _mapping(record.get('commits')).items()),
        'Command': str(record.get('command') or ''),
        'Folder': str(run.folder.resolve()),
        'Checkpoint': str(run.checkpoint or ''),
    }
    return [(name, value) for name, value in found.items() if value]


def commands(run: Run) -> list[tuple[str, str]]:
    """What one would do next, and how."""
    if run.checkpoint is None:
        return []
    checkpoint, config = run.checkpoint, run.folder / CONFIG
    protocol = run.scores.protocol.partition('@')[0] if run.scores else 'ade20k-ss'
    found = {
        'Segment pictures': ['predict', checkpoint, 'photos/', '--out', 'predictions'],
        'Evaluate in full, averaged weights (EMA) and raw ones':
            ['evaluate', config, f'load_path={checkpoint}', '--protocol', protocol],
        'Use it without this package': ['export', checkpoint, '--to', 'onnx'],
        'Train it further on other data':
            ['train', config, f'load_path={checkpoint}', 'load_weights_only=true', 'dataset=mydata'],
    }  # fmt: skip
    return [(what, shlex.join(['segrecipes', *map(str, words)])) for what, words in found.items()]


def hardware(values: Mapping[str, Any]) -> str:
    if not values:
        return ''
    ranks, nodes = values.get('ranks', 1), values.get('nodes', 1)
    device = values.get('device', '?')
    count = f'{ranks} × ' if ranks > 1 else ''
    many = f' on {nodes} nodes' if nodes > 1 else ''
    cpu = '' if device == values.get('cpu') else f'; {values.get("cpu")}'
    return f'{count}{device}{many}{cpu}, {values.get("cores")} cores'


def date(value: Any) -> str:
    """``2026-11-21 23:43 UTC``"""
    try:
        return f'{datetime.fromisoformat(value):%Y-%m-%d %H:%M} UTC'
    except (TypeError, ValueError):
        return ''


def duration(seconds: float) -> str:
    """``38 s``, ``12 min``, ``3 h 05 min``"""
    if seconds < 100:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 100 else f'{minutes // 60} h {minutes % 60:02d} min'


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
