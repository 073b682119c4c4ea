"""The benchmarks' own code; what they measure is in their records, and never in a test."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / 'benchmarks'


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench

    return bench


@pytest.fixture
def table(bench: Any) -> Any:
    import table

    return table


def test_candidates_take_turns_and_the_warmup_does_not_count(bench: Any) -> None:
    order = []
    candidates = {name: lambda name=name: order.append(name) for name in 'ab'}
    seconds = bench.interleave(candidates, rounds=3, warmup=1)
    assert order == ['a', 'b'] * 4
    assert {name: len(times) for name, times in seconds.items()} == {'a': 3, 'b': 3}


@pytest.mark.parametrize(
    ('value', 'text'),
    [(0, '0.000'), (0.0123, '0.012'), (1.234, '1.23'), (12.34, '12.3'), (1234.5, '1234'), (7e-7, '7.0e-07')],
)
def test_numbers(bench: Any, value: float, text: str) -> None:
    assert bench.number(value) == text


@pytest.mark.parametrize(('value', 'met'), [(1.9, False), (2.0, True), (2.1, True)])
def test_targets_say_why_only_where_they_are_not_met(bench: Any, value: float, met: bool) -> None:
    benchmark = bench.Benchmark('name', 'question')
    benchmark.target('speed', value, at_least=2, why='because')
    benchmark.target('memory', 4 - value, at_most=2, why='because')
    assert [target['met'] for target in benchmark.targets] == [met, met]
    assert [target['why'] for target in benchmark.targets] == ['' if met else 'because'] * 2
    assert ('NOT' in bench.target_line(benchmark.targets[0])) == (not met)


def test_a_record_is_appended(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, 'RECORDS', tmp_path)
    for _ in range(2):
        benchmark = bench.Benchmark('name', 'question')
        assert benchmark.table('one').add('row', [3.0, 1.0, 2.0], more=4.0) == 2
        benchmark.finish()
    records = [json.loads(line) for line in (tmp_path / 'name.jsonl').read_text().splitlines()]
    assert len(records) == 2
    assert {'command', 'commit', 'hardware', 'versions', 'date'} <= records[0].keys()
    [row] = records[0]['tables'][0]['rows']
    assert (row['median'], row['min'], row['max'], row['n'], row['extra']) == (2, 1, 3, 3, {'more': 4})


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs Linux')
def test_peak_memory_is_of_the_call(bench: Any) -> None:
    import torch

    mebibytes = bench.peak_extra_bytes(lambda: torch.ones(2**26)) / 2**20
    assert 230 < mebibytes < 300  # 256, and what else of the process comes or goes meanwhile


def test_results_and_summary_are_those_of_the_records(table: Any) -> None:
    assert (FOLDER / 'RESULTS.md').read_text() == '\n'.join(table.lines()) + '\n'
    readme = (FOLDER.parent / 'README.md').read_text()
    assert readme.partition(table.BEGIN)[2].partition(table.END)[0].strip() == table.summary(first_only=True)


def test_the_last_record_of_each_hardware_counts(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, 'RECORDS', tmp_path)
    records = [{'hardware': name, 'number': number} for number, name in enumerate(['a', 'b', 'a'])]
    (tmp_path / 'q.jsonl').write_text('\n'.join(map(json.dumps, records)))
    assert [record['number'] for record in table.last_records('q')] == [1, 2]
    assert table.last_records('none') == []


def test_no_script_shadows_a_module_that_is_installed_or_in_the_standard_library() -> None:
    installed = {path.name for folder in sys.path if 'site-packages' in folder for path in Path(folder).iterdir()}
    for script in FOLDER.glob('*.py'):
        assert script.stem not in installed | sys.stdlib_module_names


def test_every_script_of_make_bench_exists_and_says_its_question(table: Any) -> None:
    """The list is one file, which the Makefile reads too."""
    listed = subprocess.run(['make', '-n', 'bench'], cwd=FOLDER.parent, capture_output=True, text=True).stdout
    on_cpu = [name for name, *places in table.SCRIPTS if 'cpu' in places]
    assert f'for script in {" ".join(on_cpu)};' in listed
    for question in table.QUESTIONS:
        source = ast.parse((FOLDER / f'{question}.py').read_text())
        assert f'python benchmarks/{question}.py' in (ast.get_docstring(source) or '')


@pytest.fixture
def small(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    import small_data

    monkeypatch.setattr(small_data, 'RUNS', tmp_path / 'runs.jsonl')
    return small_data


def small_run(small: Any, row: str, seed: int, mean_iou: float, **more: Any) -> dict[str, Any]:
    settings = small.setting(row)
    return {
        'row': row, 'seed': seed, 'budget': 60, 'batches': 7, 'settings': settings, 'mean_iou': mean_iou,
        'cpu_seconds': 100.0, 'error': None,
    } | more  # fmt: skip


def test_small_data_goes_on_where_it_was(small: Any) -> None:
    rows = ['mild', 'small']
    assert list(small.missing(rows, 2, 60)) == [('mild', 1), ('small', 1), ('mild', 2), ('small', 2)]
    runs = [
        small_run(small, 'mild', 1, 30.0),
        small_run(small, 'small', 1, 0.0, error='killed by signal 9'),
        small_run(small, 'mild', 2, 30.0, settings=['of before']),
        small_run(small, 'small', 2, 30.0, budget=600),
    ]
    small.RUNS.write_text('\n'.join(map(json.dumps, runs)))
    assert list(small.missing(rows, 2, 60)) == [('small', 1), ('mild', 2), ('small', 2)]


def test_small_data_has_the_mean_the_spread_and_the_lead(small: Any) -> None:
    assert small.summarize([], 60) is None
    figures = {'mild': (30.0, 32.0), 'hot': (20.0,), 'small': (34.0, 38.0), 'small without EMA': (33.0, 35.0)}
    runs = [small_run(small, row, seed, iou) for row, ious in figures.items() for seed, iou in enumerate(ious, 1)]
    record = small.summarize(runs, 60)
    rows = {row['name']: row for row in record.tables[0].rows}
    assert [*rows] == ['mild', 'hot', 'small', 'small without EMA']
    assert (rows['small']['n'], rows['small']['extra']['mean']) == (2, '36.00 ± 2.83')
    assert rows['hot']['extra']['mean'] == '20.00'
    assert rows['small without EMA']['extra']['over small, seed by seed'] == '-2.00 ± 1.41'
    [target] = record.targets
    assert (target['what'], target['value'], target['met']) == ('small over the best other recipe, mild', 5.0, True)


def value_at(config: Any, key: str) -> Any:
    """None where something above is null, or has no such key."""
    for name in key.split('.'):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


def test_every_part_of_small_is_taken_away_once(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from segrecipes.config.merge import load_config
    from segrecipes.training.run import check_registered

    monkeypatch.chdir(FOLDER.parent)
    config, sources = load_config(small.arguments('small', '/data'))
    of_recipe = {key for key, source in sources.items() if source.partition(',')[0].endswith('small.yaml')}
    taken = set()
    for part in small.PARTS:
        without, _ = load_config(small.arguments(f'small without {part}', '/data'))
        check_registered(without)
        gone = {key for key in of_recipe if value_at(without, key) != value_at(config, key)}
        assert gone and not gone & taken
        taken |= gone
    assert of_recipe - taken == {'algorithms.channels_last'}
    for row in small.RECIPES:
        check_registered(load_config(small.arguments(row, '/data'))[0])
