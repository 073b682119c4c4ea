"""Write benchmarks/RESULTS.md from the last record of each question on each kind of hardware.

python benchmarks/table.py
"""

import json
from collections.abc import Iterator
from typing import Any

from bench import RECORDS, ROOT, cells, number, target_line
from tabulate import tabulate

# Each script and where it is run; the Makefile reads the same list. What needs photographs wants a GPU too.
SCRIPTS = [line.split() for line in (ROOT / 'benchmarks' / 'scripts.txt').read_text().splitlines()]
QUESTIONS = tuple(name for name, *_ in SCRIPTS)
ON_GPU = tuple(name for name, *places in SCRIPTS if {'gpu', 'photographs'} & {*places})


BEGIN, END = '<!-- python benchmarks/table.py -->', '<!-- end -->'


def main() -> None:
    (ROOT / 'benchmarks' / 'RESULTS.md').write_text('\n'.join(lines()) + '\n')
    readme = ROOT / 'README.md'
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f'{before}{BEGIN}\n{summary(first_only=True)}\n{END}{rest.partition(END)[2]}')


def summary(first_only: bool = False) -> str:
    """One line for each figure that has a target, or for a record's first, from the last one on a CPU and on a GPU."""
    rows = []
    for question in QUESTIONS:
        for record in {is_gpu(record): record for record in last_records(question)}.values():
            script, on = f'`benchmarks/{question}.py`', record['hardware'].rpartition(',')[0]
            targets = record['targets'][: 1 if first_only else None]
            rows += [(script, target['what'], number(target['value']), target['wanted'], on) for target in targets]
    return tabulate(rows, ('benchmark', 'figure', 'measured', 'wanted', 'on'), tablefmt='github', disable_numparse=True)


def lines() -> Iterator[str]:
    yield '# Results'
    yield ''
    yield 'Written by `python benchmarks/table.py` from the last of the [records](records) of each script. Candidates'
    yield 'are timed in turn, A B A B …, on pinned threads; medians, smallest and largest, and their number.'
    yield from ('', summary())
    for question in QUESTIONS:
        records = last_records(question)
        for record in records:
            yield from section(record)
        if question in ON_GPU and not any(map(is_gpu, records)):
            yield from ('', f'`{question}.py` on a GPU: not measured.')


def is_gpu(record: dict[str, Any]) -> bool:
    return 'NVIDIA' in record['hardware']


def last_records(question: str) -> list[dict[str, Any]]:
    """The last record of a question for each hardware, the latest last."""
    file = RECORDS / f'{question}.jsonl'
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    latest: dict[str, dict[str, Any]] = {}
    for record in found:
        latest.pop(record['hardware'], None)
        latest[record['hardware']] = record
    return list(latest.values())


def section(record: dict[str, Any]) -> Iterator[str]:
    yield from ('', f'## {record["question"]}', '')
    versions = ', '.join(f'{name} {number}' for name, number in record['versions'].items())
    yield f'`{record["command"]}` on {record["date"]} at commit {record["commit"]}, {record["hardware"]}; {versions}.'
    for table in record['tables']:
        extra = list(dict.fromkeys(key for row in table['rows'] for key in row['extra']))
        headers = [table['title'], f'median, {table["unit"]}', 'min–max', 'n', *extra]
        rows = [cells(row, extra) for row in table['rows']]
        yield from ('', tabulate(rows, headers, tablefmt='github', disable_numparse=True))
    if record['targets'] or record['notes']:
        yield ''
    for target in record['targets']:
        yield f'- {target_line(target)}'
    for note in record['notes']:
        yield f'- {note}'


if __name__ == '__main__':
    main()
