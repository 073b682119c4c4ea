"""The lines of history.jsonl: what is in them, when they are written, and what a resumed or a new run does."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.core import Callback, State, Timestamp
from composer.loggers import Logger
from composer.models import ComposerClassifier
from torch.utils.data import DataLoader, TensorDataset

from segrecipes.base.run_files import HISTORY
from segrecipes.training.callbacks.history import History


def state_at(batch: int, epoch: int = 0, seconds: float = 0, run_name: str = 'first') -> Any:
    timestamp = Timestamp(epoch=epoch, batch=batch, sample=4 * batch, total_wct=timedelta(seconds=seconds))

    class Stub:
        pass

    stub: Any = Stub()
    stub.timestamp, stub.run_name = timestamp, run_name
    return stub


def lines(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        pytest.fail(f'{name} is no JSON')

    return [json.loads(line, parse_constant=refuse) for line in (folder / HISTORY).read_text().splitlines()]


def start(folder: Path | str, batch: int = 0) -> History:
    history = History(str(folder))
    history.fit_start(state_at(batch), None)  # type: ignore[arg-type]
    return history


def log(history: History, batch: int, **metrics: Any) -> None:
    history.log_metrics(metrics)
    history.batch_end(state_at(batch), None)  # type: ignore[arg-type]


def test_a_line(tmp_path: Path) -> None:
    history = start(tmp_path)
    history.log_metrics({'loss/train/total': torch.tensor(1.5), 'lr': 0.25})
    history.log_metrics({'lr': 0.5, 'steps': 3})
    history.batch_end(state_at(2, epoch=1, seconds=7.12345), None)  # type: ignore[arg-type]
    assert lines(tmp_path) == [
        {
            'batch': 2, 'epoch': 1, 'sample': 8, 'seconds': 7.123,
            'metrics': {'loss/train/total': 1.5, 'lr': 0.5, 'steps': 3.0},
        }
    ]  # fmt: skip


def test_each_event_has_its_own_line(tmp_path: Path) -> None:
    history = start(tmp_path)
    for number, event in enumerate((history.batch_end, history.epoch_end, history.eval_end)):
        history.log_metrics({'value': number})
        event(state_at(3), None)  # type: ignore[arg-type]
        event(state_at(3), None)  # type: ignore[arg-type]  # nothing new, no line
    assert [line['metrics'] for line in lines(tmp_path)] == [{'value': 0}, {'value': 1}, {'value': 2}]


@pytest.mark.parametrize('lost', [float('nan'), float('inf'), -float('inf'), torch.tensor(float('nan'))])
def test_what_is_not_finite_is_null(lost: Any, tmp_path: Path) -> None:
    log(start(tmp_path), 1, lost=lost, kept=1)
    assert lines(tmp_path)[0]['metrics'] == {'lost': None, 'kept': 1}


def test_nothing_is_written_before_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / HISTORY).write_text('of a run before\n')
    history = start(tmp_path)
    history.log_metrics({'mIoU': 1})
    history.eval_end(state_at(0), None)  # type: ignore[arg-type]
    assert (tmp_path / HISTORY).read_text() == 'of a run before\n'
    log(history, 1, loss=2)
    assert [line['metrics'] for line in lines(tmp_path)] == [{'loss': 2}]


def test_no_folder_before_the_first_batch(tmp_path: Path) -> None:
    history = start(tmp_path / 'run')
    history.eval_end(state_at(0), None)  # type: ignore[arg-type]
    history.close(state_at(0), None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_new_run_starts_anew(tmp_path: Path) -> None:
    first = start(tmp_path)
    log(first, 1, loss=1)
    log(first, 2, loss=2)
    first.close(state_at(2), None)  # type: ignore[arg-type]
    log(start(tmp_path), 1, loss=9)
    assert [line['metrics']['loss'] for line in lines(tmp_path)] == [9]


def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    first = start(tmp_path)
    for batch in (1, 2, 3):
        log(first, batch, loss=batch)
    first.close(state_at(3), None)  # type: ignore[arg-type]
    resumed = start(tmp_path, batch=2)  # the checkpoint was older than the last line
    for batch in (3, 4):
        log(resumed, batch, loss=10 * batch)
    assert [(line['batch'], line['metrics']['loss']) for line in lines(tmp_path)] == [
        (1, 1), (2, 2), (3, 3), (3, 30), (4, 40),
    ]  # fmt: skip


def test_a_resumed_run_in_another_folder(tmp_path: Path) -> None:
    log(start(tmp_path / 'new', batch=2), 3, loss=3)
    assert [line['batch'] for line in lines(tmp_path / 'new')] == [3]


def test_closed_and_used_again(tmp_path: Path) -> None:
    history = start(tmp_path)
    log(history, 1, loss=1)
    history.close(state_at(1), None)  # type: ignore[arg-type]
    log(history, 2, loss=2)
    assert [line['batch'] for line in lines(tmp_path)] == [1, 2]


def test_what_was_logged_of_the_batch_that_ended_a_run(tmp_path: Path) -> None:
    """A callback that raises comes before the loggers."""
    nothing: Any = None
    history = start(tmp_path)
    history.batch_start(state_at(0), nothing)
    history.log_metrics({'loss': float('nan')})
    history.close(state_at(1), nothing)
    assert [(line['batch'], line['metrics']) for line in lines(tmp_path)] == [(1, {'loss': None})]

    refused = start(tmp_path, batch=1)  # resumed, and ended before its first batch
    refused.log_metrics({'loss': 3})
    refused.close(state_at(1), nothing)
    assert len(lines(tmp_path)) == 1


def test_tables_are_kept_with_the_metrics_of_their_batch(tmp_path: Path) -> None:
    nothing: Any = None
    history = start(tmp_path)
    history.log_table(['class', 'IoU'], [['sky', 50.0], ['sea', None]], 'eval/classes')
    log(history, 1, loss=1)
    log(history, 2, loss=2)
    first, second = lines(tmp_path)
    assert first['tables'] == {'eval/classes': {'columns': ['class', 'IoU'], 'rows': [['sky', 50.0], ['sea', None]]}}
    assert 'tables' not in second
    history.close(state_at(2), nothing)


def test_the_folder_may_name_the_run(tmp_path: Path) -> None:
    log(start(f'{tmp_path}/{{run_name}}'), 1, loss=1)
    assert len(lines(tmp_path / 'first')) == 1


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('composer.utils.dist.get_global_rank', lambda: 1)
    log(start(tmp_path), 1, loss=1)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_loses_no_line(tmp_path: Path) -> None:
    """Each line is in the file once its batch is done, though nothing has closed it."""
    history = start(tmp_path)
    for batch in range(1, 4):
        log(history, batch, loss=batch)
        assert len(lines(tmp_path)) == batch


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    log(start(tmp_path), 1, loss=1)
    with (tmp_path / HISTORY).open('a') as file:
        file.write('{"batch": 2, "epo')
    log(start(tmp_path, batch=1), 2, loss=2)
    last = (tmp_path / HISTORY).read_text().splitlines()[-1]
    assert json.loads(last)['metrics'] == {'loss': 2}


# In a run


class LogBatch(Callback):
    def batch_start(self, state: State, logger: Logger) -> None:
        logger.log_metrics({'started': state.timestamp.batch.value})


def fit(folder: Path, max_duration: str, **arguments: Any) -> None:
    torch.manual_seed(0)
    model = ComposerClassifier(torch.nn.Linear(3, 2), num_classes=2)
    data = DataLoader(TensorDataset(torch.randn(6, 3), torch.randint(2, (6,))), batch_size=2)
    trainer = Trainer(
        model=model,
        train_dataloader=data,
        eval_dataloader=data,
        optimizers=torch.optim.SGD(model.parameters(), 0.1),
        max_duration=max_duration,
        callbacks=[LogBatch()],
        loggers=[History(str(folder))],
        progress_bar=False,
        device='cpu',
        save_folder=str(folder),
        **arguments,
    )
    trainer.fit()
    trainer.close()


def test_a_run(tmp_path: Path) -> None:
    fit(tmp_path, '2ep')
    found = lines(tmp_path)
    for key in ('batch', 'epoch', 'sample', 'seconds'):
        values = [line[key] for line in found]
        assert values == sorted(values)
    started = {line['batch']: line['metrics']['started'] for line in found if 'started' in line['metrics']}
    assert started == {batch: batch - 1 for batch in range(1, 7)}
    evaluated = [
        (line['batch'], line['epoch'], line['sample'])
        for line in found
        if 'metrics/eval/MulticlassAccuracy' in line['metrics']
    ]
    assert evaluated == [(3, 1, 6), (6, 2, 12)]
    losses = [line['metrics']['loss/train/total'] for line in found if 'loss/train/total' in line['metrics']]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_an_evaluation_before_a_run_is_no_history(tmp_path: Path) -> None:
    model = ComposerClassifier(torch.nn.Linear(3, 2), num_classes=2)
    data = DataLoader(TensorDataset(torch.randn(6, 3), torch.randint(2, (6,))), batch_size=2)
    trainer = Trainer(
        model=model, eval_dataloader=data, loggers=[History(str(tmp_path))], progress_bar=False, device='cpu'
    )
    trainer.eval()
    trainer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_resumed(tmp_path: Path) -> None:
    fit(tmp_path, '1ep')
    before = (tmp_path / HISTORY).read_text()
    fit(tmp_path, '2ep', load_path=str(tmp_path / 'latest-rank0.pt'))
    after = (tmp_path / HISTORY).read_text()
    assert after.startswith(before)
    started = [line['batch'] for line in lines(tmp_path) if 'started' in line['metrics']]
    assert started == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_refused_leaves_the_history(tmp_path: Path) -> None:
    fit(tmp_path, '1ep')
    before = (tmp_path / HISTORY).read_text()
    with pytest.raises(FileExistsError):
        fit(tmp_path, '1ep', save_overwrite=False)
    assert (tmp_path / HISTORY).read_text() == before
    fit(tmp_path, '1ep', save_overwrite=True)
    assert len(lines(tmp_path)) == len(before.splitlines())
