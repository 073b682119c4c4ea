"""Folders of runs as the tests of reports need them, and what a reader sees of a page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from plotly.offline import get_plotlyjs

from segrecipes.base.palette import even_colors, indexed_png
from segrecipes.config.describe import save
from segrecipes.config.schema import Config
from segrecipes.evaluation.scores import Scores
from segrecipes.reports.page import render
from segrecipes.reports.run import read_run

NASTY = '</script><b onclick="x">&amp;\u2028\''
RUN_NAME = '</title><i>run</i> & "1"'
NAMES = ('road', NASTY, 'sign', 'boat')
CONFUSION = [[60, 30, 10, 0], [5, 40, 5, 0], [0, 25, 25, 0], [0, 0, 0, 0]]


def line(batch: int, epoch: int, **metrics: Any) -> dict[str, Any]:
    metrics = {name.replace('__', '/'): value for name, value in metrics.items()}
    return {'batch': batch, 'epoch': epoch, 'sample': batch * 16, 'seconds': batch * 36.0, 'metrics': metrics}


def history_lines(protocol: str = 'ade20k-ss') -> list[dict[str, Any]]:
    """Forty batches, four epochs; the best mean IoU, 52.5, in the third."""
    lines = []
    for batch in range(1, 41):
        losses = {'total': 4 / batch, 'cross_entropy': 3 / batch, 'dice': 1 / batch}
        metrics = {f'loss/train/{name}': loss for name, loss in losses.items()}
        metrics |= {'lr-DecoupledSGDW/group0': 0.25, 'throughput/samples_per_sec': 30.0 + batch % 3}
        metrics['throughput/device/samples_per_sec'] = metrics['throughput/samples_per_sec']
        lines.append(line(batch, (batch - 1) // 10, **metrics))
        if batch % 10 == 0:
            iou = [20.0, 40.0, 52.5, 50.0][batch // 10 - 1]
            lines.append(line(batch, batch // 10, **{f'metrics/eval/mIoU[{protocol}]': iou}))
    return lines


def write_lines(folder: Path, lines: list[Any], end: str = '\n') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = '\n'.join(text if isinstance(text, str) else json.dumps(text) for text in lines)
    (folder / 'history.jsonl').write_text(text + end)
    return folder


def write_scores(folder: Path, confusion: Any, names: Any = NAMES, protocol: str = 'ade20k-ss') -> None:
    Scores(np.array(confusion), tuple(names), 3, protocol, 'ema', 4, 40).write(folder / 'evaluation')


def make_run(folder: Path, protocol: str = 'ade20k-ss', run_name: str = RUN_NAME) -> Path:
    """A run with everything in it: image a is 800 pixels wide, b and c 40."""
    write_lines(folder, history_lines(protocol))
    config = Config(run_name=run_name, recipe_name='mild')
    config.eval_dataset.name = 'camvid'
    save(config, {'run_name': 'command line'}, folder / 'config.yaml')
    pictures = folder / 'evaluation' / 'images'
    pictures.mkdir(parents=True)
    write_scores(folder, CONFUSION, protocol=protocol)
    entries = []
    for uid, size, groups, iou in (('a', (800, 40), ['best'], 90), ('b', (40, 20), ['worst', 'sample'], 10),
                                   ('c', (40, 20), ['worst'], 5.5)):  # fmt: skip
        rng = np.random.default_rng(ord(uid))
        image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
        image.save(pictures / f'{uid}.jpg')
        truth = rng.integers(0, 3, (size[1], size[0]), np.uint8)
        truth[:3] = 255
        prediction = np.where(rng.random(truth.shape) < 0.5, truth, 1).astype(np.uint8)
        for kind, labels in {'truth': truth, 'prediction': prediction}.items():
            indexed_png(labels, even_colors()[: len(NAMES)]).save(pictures / f'{uid}-{kind}.png')
        files = {'image': f'images/{uid}.jpg'} | {k: f'images/{uid}-{k}.png' for k in ('truth', 'prediction')}
        entries.append({'uid': uid, 'groups': groups, 'mean_iou': iou, 'pixel_accuracy': 77.7} | files)
    (pictures.parent / 'images.json').write_text(json.dumps({'images': entries}))
    (pictures.parent / 'image_scores.csv').write_text('uid,mean_iou,pixel_accuracy\na,90,99\nb,10,20\nc,5.5,\nd,,\n')
    return folder


RECORDED = {
    'started': '2026-11-21T23:43:32+00:00', 'resumed': ['2026-11-22T01:00:00+00:00'],
    'ended': '2026-11-22T02:44:29+00:00', 'state': 'finished', 'command': 'segrecipes train my.yaml',
    'hardware': {'device': 'GPU X', 'ranks': 8, 'nodes': 2, 'cpu': 'CPU Y', 'cores': 64},
    'versions': {'segrecipes': '0.1.0', 'torch': '2.7.0'}, 'commits': {'segrecipes': '0123456789ab and changes'},
    'dataset': 'mine', 'warning': '', 'images': {'train': 20210, 'val': 2000}, 'parameters': 11559480,
    'duration': '4ep',
}  # fmt: skip


def write_record(folder: Path, **changes: Any) -> Path:
    (folder / 'run.json').write_text(json.dumps(RECORDED | changes))
    return folder


class Text(HTMLParser):
    """What a reader sees, and the ids of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.ids: list[str] = []
        self.parts: list[str] = []
        self.data: dict[str, str] = {}
        self._within = ('', None)
        self.feed(page.replace(get_plotlyjs(), ''))
        self.text = re.sub(r'\s+', ' ', ''.join(self.parts))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        identity = dict(attrs).get('id')
        self._within = tag, identity
        self.ids += [identity] if identity else []
        self.parts += [' '] if tag in ('th', 'td', 'br') else []

    def handle_endtag(self, tag: str) -> None:
        self._within = ('', None)

    def handle_data(self, data: str) -> None:
        tag, identity = self._within
        if tag in ('script', 'style'):
            self.data[identity or tag] = self.data.get(identity or tag, '') + data
        else:
            self.parts.append(data)


def parsed(*folders: Path) -> tuple[Text, dict[str, Any], list[str]]:
    page, warnings = render([read_run(folder) for folder in folders])
    found = Text(page)
    return found, json.loads(found.data['plots']), warnings


def traces(plot: Any) -> dict[str, Any]:
    return {trace['name']: trace for trace in plot['data']}
