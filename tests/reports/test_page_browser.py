"""The page in a browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folders import NASTY, RUN_NAME, make_run, write_scores

from segrecipes.reports.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / 'run')


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if CHROMIUM is None:
        pytest.skip('no chromium on the path')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report; at the end, it must have asked for nothing but itself, and reported no error."""
    opened = []

    def open_(path: Path, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={'width': width, 'height': 900}, **options)
        page, asked, faults = context.new_page(), [], []
        page.on('request', lambda request: asked.append(request.url))
        page.on('console', lambda message: faults.append(message.text) if message.type in ('error', 'warning') else 0)
        page.on('pageerror', lambda error: faults.append(str(error)))
        page.on('dialog', lambda dialog: (faults.append('a dialog'), dialog.dismiss()))
        opened.append((page, path, asked, faults))
        page.goto(path.as_uri())
        return page

    yield open_
    for page, path, asked, faults in opened:
        for element in ('documentElement', 'body'):  # nothing is wider than the screen
            assert page.evaluate(f'document.{element}.scrollWidth - innerWidth') == 0
        page.context.close()
        assert [url for url in asked if not url.startswith('data:')] == [path.as_uri()]
        assert faults == []


def cells(page: Any, column: int) -> list[str]:
    return [text.strip() for text in page.locator(f'#class-table tbody tr > :nth-child({column})').all_inner_texts()]


def test_sorting(run: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([run])[0])
    assert cells(page, 2) == ['38.1', '38.5', '57.1', '–']
    header = page.locator('th[data-key=iou]')
    assert header.get_attribute('aria-sort') == 'ascending'
    header.get_by_role('button').click()
    assert cells(page, 2) == ['57.1', '38.5', '38.1', '–']  # what has no value stays last
    assert header.get_attribute('aria-sort') == 'descending'
    page.locator('th[data-key=accuracy] button').focus()
    page.keyboard.press('Enter')
    assert cells(page, 3) == ['50.0', '60.0', '80.0', '–']
    assert header.get_attribute('aria-sort') == 'none'
    page.keyboard.press('Space')
    assert cells(page, 3) == ['80.0', '60.0', '50.0', '–']
    page.locator('th[data-key=name] button').click()
    assert cells(page, 1)[1:] == ['boat', 'road', 'sign']
    page.locator('th[data-key=share] button').click()
    assert cells(page, 4) == ['0.0', '25', '25', '50']
    page.locator('th[data-key=taken] button').click()
    assert [text.split()[-2] for text in cells(page, 5)[:3]] == ['10', '30', '50']


def test_flipping(run: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([run])[0])
    assert page.locator('.picture:visible .caption b').all_inner_texts() == ['c', 'b']  # the worst are shown first
    card = page.locator('.picture').first

    def shown() -> dict[str, float]:
        layers = ('truth', 'prediction', 'errors')
        opacity = {
            name: card.locator(f'.overlay.{name}').evaluate('e => +getComputedStyle(e).opacity') for name in layers
        }
        pressed = card.locator('[data-view][aria-pressed=true]').all_inner_texts()
        visible = {name: value for name, value in opacity.items() if value}
        assert [text.lower() for text in pressed] == (list(visible) or ['image'])
        return visible

    assert shown() == {'prediction': 0.5}
    for name in ('Truth', 'Errors', 'Prediction'):
        card.get_by_role('button', name=name).click()
        assert shown() == {name.lower(): 0.5}
    card.get_by_role('button', name='Image', exact=True).click()
    assert shown() == {}
    card.locator('.viewer').click()
    assert shown() == {'truth': 0.5}
    card.locator('.viewer').click()
    assert shown() == {'prediction': 0.5}
    card.locator('.viewer').focus()
    for key, layers in {'t': ['truth'], 'ArrowRight': ['prediction'], 'E': ['errors'], 'i': []}.items():
        page.keyboard.press(key)
        assert list(shown()) == layers
    page.keyboard.press('ArrowLeft')
    assert shown() == {'errors': 0.5}
    card.locator('input').fill('25')
    assert shown() == {'errors': 0.25}
    page.locator('#all-views').get_by_role('button', name='Truth').click()
    page.locator('#all-views input').fill('100')
    assert shown() == {'truth': 1}
    assert page.locator('.picture[data-view=truth]').count() == 3
    sizes = card.locator('img').evaluate_all('all => all.map(e => [e.naturalWidth, e.naturalHeight, e.clientWidth])')
    assert [size[:2] for size in sizes] == [[40, 20]] * 7
    assert len({size[2] for size in sizes}) == 1  # one lies on the other
    for name, uids in {'Best 1': ['a'], 'Sample 1': ['b'], 'All 3': ['c', 'b', 'a'], 'Worst 2': ['c', 'b']}.items():
        page.locator('#groups').get_by_role('button', name=name).click()
        assert page.locator('.picture:visible .caption b').all_inner_texts() == uids
        assert page.locator('#groups [aria-pressed=true]').inner_text() == name


def test_plots_are_drawn_and_names_are_text(run: Path, tmp_path: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([run, make_run(tmp_path / 'other', run_name='other')])[0])
    expected = {
        'loss': ['total, each', 'total', 'cross entropy', 'dice'],
        'miou': ['ade20k-ss', 'best: 52.50 %'],
        'compare-epochs': [f'{RUN_NAME}: ade20k-ss', 'other: ade20k-ss'],
    }
    for name, lines in expected.items():
        plot = page.locator(f'#plot-{name}')
        assert plot.locator('svg .trace.scatter').count() == len(lines)
        assert plot.locator('.legendtext').evaluate_all('all => all.map(e => e.textContent)') == lines
    for name in ('lr', 'throughput', 'compare-hours'):
        assert page.locator(f'#plot-{name} svg .trace.scatter path.js-line').count() >= 1
    bars = page.evaluate("document.getElementById('plot-image-ious').calcdata[0].map(bar => [bar.p, bar.s])")
    assert [bar for bar in bars if bar[1]] == [[7.5, 1], [12.5, 1], [92.5, 1]]
    assert page.locator('#plot-image-ious svg .bars path').count() == len(bars)
    assert page.locator('#plot-confusion svg .hm image').count() == 1
    ticks = page.locator('#plot-confusion .ytick').evaluate_all('all => all.map(e => e.textContent)')
    assert sorted(ticks) == sorted(['road', f'{NASTY[:21]}…', 'sign', 'boat'])
    page.locator('#plot-confusion').scroll_into_view_if_needed()
    area = page.locator('#plot-confusion .nsewdrag').bounding_box()
    page.mouse.move(area['x'] + area['width'] * 0.375, area['y'] + area['height'] * 0.125)  # row 0, column 1
    hover = page.locator('#plot-confusion .hovertext text.nums')
    hover.wait_for()
    assert hover.evaluate('e => e.textContent') == f'30 % of roadpredicted as {NASTY}'
    assert page.locator('h1').evaluate('e => e.textContent') == RUN_NAME
    assert NASTY in page.locator('#class-table tbody th').evaluate_all('all => all.map(e => e.textContent)')
    assert page.locator('[onclick]').count() == 0
    assert page.title() == f'{RUN_NAME} · report'
    buttons = page.locator('#plot-loss .modebar-btn').evaluate_all("all => all.map(e => e.getAttribute('data-title'))")
    assert buttons == ['Download plot as a PNG', 'Zoom', 'Pan', 'Zoom in', 'Zoom out', 'Reset axes']  # none uploads it


@pytest.fixture
def many_classes(tmp_path: Path) -> Path:
    """150 classes; those of odd number are taken for the next in a third of their pixels."""
    size = 150
    confusion = np.diag(np.full(size, 600))
    for index in range(1, size - 1, 2):
        confusion[index, index + 1] = 300
    write_scores(tmp_path / 'many', confusion, [f'class number {index} of many' for index in range(size)])
    return tmp_path / 'many'


def test_many_classes(many_classes: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([many_classes])[0])
    assert len(cells(page, 1)) == 150
    plot = page.locator('#plot-confusion')
    assert plot.locator('.xtick, .ytick').count() == 0
    page.evaluate("Plotly.relayout('plot-confusion', {'xaxis.range': [9.5, 19.5], 'yaxis.range': [29.5, 19.5]})")
    plot.locator('.ytick').first.wait_for()
    # Long names are cut
    assert sorted(plot.locator('.ytick').evaluate_all('all => all.map(e => e.textContent)')) == sorted(
        f'class number {i} of ma…' for i in range(20, 30)
    )
    text = page.evaluate("document.getElementById('plot-confusion').data[0].text[21][22]")
    assert text == '33.333 % of class number 21 of many<br>predicted as class number 22 of many'
    page.evaluate("Plotly.relayout('plot-confusion', {'xaxis.autorange': true, 'yaxis.autorange': 'reversed'})")
    plot.locator('.ytick').first.wait_for(state='detached')
    assert page.locator('.weakest li').count() == 5


def test_a_telephone(run: Path, many_classes: Path, tmp_path: Path, open_page: Callable[..., Any]):
    long = make_run(tmp_path / 'long', 'mosaic-512sq@128', 'a-very-long-name-of-a-run-' * 5)
    for number, folders in enumerate([(run, long), (many_classes,)]):
        page = open_page(write_report(folders, tmp_path / f'{number}.html')[0], 390, has_touch=True, is_mobile=True)
        assert page.evaluate('innerWidth') == 390
        assert page.locator('.plot svg').first.is_visible()


def test_light_and_dark(run: Path, open_page: Callable[..., Any]):
    from playwright.sync_api import expect

    page = open_page(write_report([run])[0], color_scheme='light')
    for scheme, background, text in (
        ('light', 'rgb(246, 247, 249)', 'rgb(98, 106, 118)'),
        ('dark', 'rgb(20, 22, 26)', 'rgb(154, 162, 174)'),  # while it is open, too
    ):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator('body')).to_have_css('background-color', background)
        expect(page.locator('#plot-loss .xtick text').first).to_have_css('fill', text)
