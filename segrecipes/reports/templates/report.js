'use strict';

// Plots

const plots = JSON.parse(document.getElementById('plots').textContent);
const narrow = matchMedia('(max-width: 640px)');
const touch = matchMedia('(pointer: coarse)');
const FEW_CLASSES = 30;

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function styled(layout) {
  const font = {family: getComputedStyle(document.body).fontFamily, size: 12, color: color('muted')};
  const axis = {
    gridcolor: color('line'), linecolor: color('line'), zerolinecolor: color('line'), automargin: true,
  };
  return {
    font,
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    margin: {l: 56, r: 16, t: 16, b: 44},
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom'},
    hovermode: 'closest',
    hoverlabel: {bgcolor: color('card'), bordercolor: color('line'), font: {...font, color: color('text')}},
    // A finger that drags over a plot means to scroll the page.
    dragmode: touch.matches ? false : 'zoom',
    modebar: {bgcolor: 'rgba(0,0,0,0)', color: color('muted'), activecolor: color('accent')},
    ...layout,
    xaxis: {...axis, ...layout.xaxis},
    yaxis: {...axis, rangemode: 'tozero', ...layout.yaxis},
  };
}

function describeCells(plot) {
  const [trace] = plot.data;
  trace.hoverinfo = 'text';
  trace.text = trace.z.map((row, truth) => row.map((percent, prediction) => percent === null ? '' :
    `${percent} % of ${plot.classes[truth]}<br>predicted as ${plot.classes[prediction]}`));
}

/** Names of classes, where there is room for them. */
function labelled(axis, count) {
  const [first, last] = axis && axis.range ? axis.range : [0, count];
  return Math.abs(last - first) <= (narrow.matches ? FEW_CLASSES / 2 : FEW_CLASSES) + 1;
}

function showClasses(div, plot) {
  const update = {};
  for (const name of ['xaxis', 'yaxis']) {
    const show = labelled(div.layout[name], plot.classes.length);
    if (div.layout[name].showticklabels !== show) update[`${name}.showticklabels`] = show;
  }
  if (Object.keys(update).length) Plotly.relayout(div, update);
}

for (const [name, plot] of Object.entries(plots)) {
  const div = document.getElementById(`plot-${name}`);
  if (!div) continue;
  const config = {
    responsive: true, displaylogo: false, typesetMath: false,
    showSendToCloud: false,  // plotly's default is a button that uploads the plot
    modeBarButtons: [['toImage'], ['zoom2d', 'pan2d'], ['zoomIn2d', 'zoomOut2d', 'resetScale2d']],
    displayModeBar: touch.matches ? Boolean(plot.classes) : 'hover',
  };
  if (plot.classes) {
    describeCells(plot);
    for (const axis of ['xaxis', 'yaxis']) plot.layout[axis].showticklabels = labelled(null, plot.classes.length);
    if (narrow.matches) plot.data[0].showscale = false;
  }
  Plotly.newPlot(div, plot.data, styled(plot.layout), config);
  if (plot.classes) div.on('plotly_relayout', () => showClasses(div, plot));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () =>
    Plotly.relayout(div, styled(plot.layout)));
}

// The table of classes

const table = document.getElementById('class-table');
for (const header of table ? table.querySelectorAll('thead th') : []) {
  header.querySelector('button').addEventListener('click', () => {
    const column = header.cellIndex, numeric = header.dataset.key !== 'name';
    const ascending = header.getAttribute('aria-sort') !== 'ascending';
    for (const other of header.parentNode.cells) other.setAttribute('aria-sort', 'none');
    header.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (numeric && (x === '' || y === '')) return (x === '') - (y === '');  // no value comes last, either way
      const order = numeric ? x - y : x.localeCompare(y);
      return ascending ? order : -order;
    });
    table.tBodies[0].append(...rows);
  });
}

// Pictures

const VIEWS = ['image', 'truth', 'prediction', 'errors'];
const cards = [...document.querySelectorAll('.picture')];

function press(buttons, pressed) {
  for (const button of buttons) button.setAttribute('aria-pressed', String(pressed(button)));
}

function show(card, view) {
  card.dataset.view = view;
  press(card.querySelectorAll('[data-view]'), button => button.dataset.view === view);
}

function blend(card, percent) {
  card.style.setProperty('--blend', percent / 100);
  card.querySelector('.blend input').value = percent;
}

for (const card of cards) {
  const viewer = card.querySelector('.viewer');
  for (const button of card.querySelectorAll('[data-view]')) {
    button.addEventListener('click', () => show(card, button.dataset.view));
  }
  card.querySelector('.blend input').addEventListener('input', event => blend(card, event.target.value));
  viewer.addEventListener('click', () => show(card, card.dataset.view === 'truth' ? 'prediction' : 'truth'));
  viewer.addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = {ArrowLeft: VIEWS.length - 1, ArrowRight: 1}[event.key];
    const view = step ? VIEWS[(VIEWS.indexOf(card.dataset.view) + step) % VIEWS.length]
      : VIEWS.find(name => name[0] === event.key.toLowerCase());
    if (!view) return;
    show(card, view);
    event.preventDefault();
  });
}

const all = document.getElementById('all-views');
if (all) {
  const buttons = all.querySelectorAll('[data-view]');
  for (const button of buttons) {
    button.addEventListener('click', () => {
      for (const card of cards) show(card, button.dataset.view);
      press(buttons, other => other === button);
    });
  }
  all.querySelector('input').addEventListener('input', event => {
    for (const card of cards) blend(card, event.target.value);
  });
}

const groups = [...document.querySelectorAll('#groups button')];
function choose(chosen) {
  const group = chosen.dataset.group;
  press(groups, button => button === chosen);
  for (const card of cards) card.hidden = group !== '' && !JSON.parse(card.dataset.groups).includes(group);
}
for (const button of groups) button.addEventListener('click', () => choose(button));
if (groups.length) choose(groups[0]);

// Commands to copy

for (const button of navigator.clipboard ? document.querySelectorAll('.copy') : []) {
  button.hidden = false;
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(button.closest('.command').querySelector('pre').textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
}
