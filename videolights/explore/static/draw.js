// A timeline and maps of words by clips as SVG, from plain numbers, for every page that shows an answer.
const RAMPS = {
  RdBu_r: ['#053061', '#2166ac', '#4393c3', '#92c5de', '#d1e5f0', '#f7f7f7', '#fddbc7', '#f4a582', '#d6604d', '#b2182b', '#67001f'],
  Reds: ['#fff5f0', '#fcbba1', '#fb6a4a', '#cb181d', '#67000d'], Blues_r: ['#08306b', '#2171b5', '#6baed6', '#c6dbef', '#f7fbff'],
};
const LINES = ['#E0691A', '#4A7FC9', '#8E5BB5', '#A67C00', '#5F6B76'], DASHES = ['', '6 3', '2 2', '6 2 2 2', '10 3'];
function node(tag, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const short = (text, most) => text.length > most ? text.slice(0, most - 1) + '…' : text;
const clock = t => t < 60 ? `${+t.toFixed(1)} s` : `${Math.floor(t / 60)}:${(t % 60).toFixed(1).padStart(4, '0')}`;
const label = (x, y, text, more = {}) => node('text', { x, y, fill: 'currentColor', 'font-size': 12, ...more }, text);
const overlap = ([a, b], windows) => Math.max(0, ...windows.map(([c, d]) => Math.max(0, Math.min(b, d) - Math.max(a, c)) / (Math.max(b, d) - Math.min(a, c))));

function seconds(svg, x, duration, from, y) {          // an axis below
  const step = [.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find(s => x(s) - x(0) > 46) ?? 7200;
  for (let t = 0; t <= duration; t += step) {
    svg.append(node('path', { d: `M${x(t)} ${from}V${y}`, stroke: 'currentColor', opacity: .12 }));
    svg.append(label(x(t), y + 14, step < 60 ? t : clock(t), { 'text-anchor': 'middle', 'font-size': 11, opacity: .75 }));
  }
}

// d: duration, clip (s), windows [[start, end]], systems {name: [[start, end, confidence]]}, saliency, curves {name: values}, frames
function timeline(host, d, seek) {
  const wide = host.clientWidth || 800, left = wide < 560 ? 64 : 110, right = wide < 560 ? 60 : 104, names = Object.keys(d.systems);
  const x = t => left + (wide - left - right) * t / d.duration, svg = node('svg', { width: wide, role: 'group', 'aria-label': 'timeline' });
  let y = 4;
  if (d.frames?.length) {
    const each = (wide - left - right) / d.frames.length, tall = Math.min(90, each * .75);
    d.frames.forEach((href, i) => svg.append(node('image', { href, x: left + i * each, y, width: each, height: tall, preserveAspectRatio: 'xMidYMid' })));
    y += tall + 8;
  }
  const top = y, lane = (name, bars, colour, solid) => {
    bars.forEach(([start, end, score], k) => {
      const said = score === undefined ? '' : `${score.toFixed(2)}${d.windows.length ? ' · IoU ' + overlap([start, end], d.windows).toFixed(2) : ''}`;
      const told = `${name}${score === undefined ? '' : ` ${k + 1}, confidence ${said}`}: ${clock(start)} to ${clock(end)}`;
      const bar = node('g', { role: 'button', tabindex: 0, 'aria-label': told, class: 'moment' }, node('title', {}, told),
        node('rect', { x: x(start), y: y + 3, width: Math.max(3, x(end) - x(start)), height: 16, fill: colour, opacity: solid(score), rx: 2 }));
      bar.onclick = () => seek(start, end);
      bar.onkeydown = e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); seek(start, end); } };
      svg.append(bar);
      if (score !== undefined || !k) svg.append(label(left - 8, y + 15, short(bars.length > 1 && score !== undefined ? `${name} ${k + 1}` : name, wide < 560 ? 9 : 16), { 'text-anchor': 'end' }));
      if (said) svg.append(label(wide - right + 8, y + 15, wide < 560 ? score.toFixed(2) : said));
      if (score !== undefined) y += 22;
    });
    if (bars.length && bars[0].length === 2) y += 22;
  };
  lane('true', d.windows, '#009E73', () => 1);
  names.forEach((name, i) => lane(name, d.systems[name], LINES[i % 5], score => .2 + .8 * Math.min(1, Math.max(0, score))));
  for (const [start, end] of d.windows)
    svg.prepend(node('rect', { x: x(start), y: top, width: x(end) - x(start), height: 'TALL', fill: '#009E73', opacity: .1 }));
  const curves = Object.entries(d.curves ?? {}).filter(([, values]) => values);
  if (d.saliency || curves.length) {
    const low = y + 84, peak = Math.max(1e-9, ...(d.saliency ?? [1])), up = v => low - 74 * v;
    if (d.saliency) {
      const steps = d.saliency.map((v, i) => `V${up(v / peak)}H${x(Math.min(d.duration, (i + 1) * d.clip))}`).join('');
      svg.append(node('path', { d: `M${x(0)} ${low}${steps}V${low}Z`, fill: '#009E73', 'fill-opacity': .22, stroke: '#009E73', 'stroke-width': 2 }));
    }
    for (const [name, values] of curves) {
      const k = names.indexOf(name) % 5, line = values.map((v, i) => `${i ? 'L' : 'M'}${x((i + .5) * d.clip)} ${up(v)}`).join('');
      svg.append(node('path', { d: line, fill: 'none', stroke: LINES[k], 'stroke-width': 2, 'stroke-dasharray': DASHES[k] }, node('title', {}, `predicted saliency of ${name}`)));
    }
    svg.append(label(left - 8, low - 34, 'saliency', { 'text-anchor': 'end' }));
    y = low + 4;
  }
  svg.querySelectorAll('[height=TALL]').forEach(band => band.setAttribute('height', y - top));
  seconds(svg, x, d.duration, top, y);
  const cursor = node('path', { stroke: 'currentColor', 'stroke-width': 2, d: '' });
  svg.append(cursor);
  svg.setAttribute('height', y + 20);
  host.replaceChildren(svg);
  svg.onclick = e => {
    const t = (e.clientX - svg.getBoundingClientRect().left - left) / (wide - left - right) * d.duration;
    if (!e.target.closest('.moment') && t >= 0 && t <= d.duration) seek(t);
  };
  return t => cursor.setAttribute('d', `M${x(t)} ${top}V${y}`);
}

function shades(ramp, low, high) {
  const stops = RAMPS[ramp].map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
  return v => {
    const at = Math.min(1, Math.max(0, (v - low) / (high - low))) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(at));
    return stops[k].map((c, i) => Math.round(c + (stops[k + 1][i] - c) * (at - k)));
  };
}

function pixels(rows, shade) {                          // a picture of one pixel a cell
  const canvas = document.createElement('canvas'), clips = rows[0].length;
  canvas.width = clips; canvas.height = rows.length;
  const pen = canvas.getContext('2d'), picture = pen.createImageData(clips, rows.length);
  rows.flat().forEach((v, i) => picture.data.set(v === null ? [0, 0, 0, 0] : [...shade(v), 255], 4 * i));
  pen.putImageData(picture, 0, 0);
  return canvas.toDataURL();
}

// m: rows (labels), unit, ramp, low, high, panels [{name, about, z (rows, clips), sentence, predicted}]; d: clip, windows, saliency
function maps(host, m, d, seek) {
  const wide = host.clientWidth || 800, left = Math.min(wide < 560 ? 70 : 130, 14 + 6.6 * Math.max(8, ...m.rows.map(r => Math.min(18, r.length))));
  const columns = Math.max(1, Math.min(m.panels.length, Math.floor((wide - left) / 170))), gap = 12, tall = m.rows.length > 30 ? 300 / m.rows.length : 17;
  const each = (wide - left - gap * (columns - 1)) / columns, clips = m.panels[0].z[0].length, end = clips * d.clip;
  const shade = shades(m.ramp, m.low, m.high), svg = node('svg', { width: wide, role: 'img', 'aria-label': `words by clips: ${m.panels.map(p => p.name).join(', ')}` });
  const below = m.panels.some(p => p.sentence) ? tall + 5 : 0, high = m.rows.length * tall + below, every = Math.ceil(12 / tall);
  const told = Object.assign(document.createElement('output'), { className: 'pointed', textContent: '\u00a0' });
  const bar = node('linearGradient', { id: host.id + '-ramp' }, ...RAMPS[m.ramp].map((c, i, all) => node('stop', { offset: i / (all.length - 1), 'stop-color': c })));
  svg.append(node('defs', {}, bar), node('rect', { x: left, y: 4, width: 120, height: 9, fill: `url(#${host.id}-ramp)`, stroke: 'currentColor', 'stroke-opacity': .3 }));
  svg.append(label(left - 8, 13, m.unit, { 'text-anchor': 'end', 'font-size': 11 }), label(left + 126, 13, `${+m.low.toPrecision(2)} to ${+m.high.toPrecision(2)}`, { 'font-size': 11 }));
  let y = 0;
  m.panels.forEach((panel, k) => {
    const at = left + k % columns * (each + gap), x = t => at + each * t / end;
    y = 44 + Math.floor(k / columns) * (high + 62);
    svg.append(label(at, y - 16, short(panel.name, Math.floor(each / 7)), { 'font-weight': 600, 'font-size': 12 }));
    svg.lastChild.append(node('title', {}, panel.about ?? panel.name));
    for (const [start, stop] of d.windows) svg.append(node('rect', { x: x(start), y: y - 6, width: x(stop) - x(start), height: 4, fill: '#009E73' }));
    for (const [start, stop, score] of panel.predicted ?? [])
      svg.append(node('rect', { x: x(start), y: y - 12, width: Math.max(2, x(stop) - x(start)), height: 4, fill: '#E0691A', opacity: .15 + .85 * score }));
    const cells = (rows, from, height) => svg.append(node('image', { href: pixels(rows, shade), x: at, y: from, width: each, height, preserveAspectRatio: 'none', class: 'map' }));
    cells(panel.z, y, m.rows.length * tall);
    if (panel.sentence) cells([panel.sentence], y + m.rows.length * tall + 5, tall);
    if (d.saliency) {
      const peak = Math.max(1e-9, ...d.saliency), steps = d.saliency.map((v, i) => `V${y + high - high * .96 * v / peak}H${x((i + 1) * d.clip)}`).join('');
      for (const [stroke, width] of [['#fff', 4], ['#009E73', 2]]) svg.append(node('path', { d: `M${x(0)} ${y + high}${steps}`, fill: 'none', stroke, 'stroke-width': width, 'pointer-events': 'none' }));
    }
    if (k % columns === 0) {
      m.rows.forEach((row, i) => { if (i % every === 0) svg.append(label(left - 8, y + (i + .75) * tall, short(row, 18), { 'text-anchor': 'end' })); });
      if (below) svg.append(label(left - 8, y + high - 4, 'sentence', { 'text-anchor': 'end', 'font-style': 'italic' }));
    }
    seconds(svg, x, end, y + high, y + high + 4);
    const field = node('rect', { x: at, y, width: each, height: high, fill: 'transparent', class: 'field' });
    const clip = e => Math.min(clips - 1, Math.max(0, Math.floor((e.clientX - field.getBoundingClientRect().left) / each * clips)));
    field.onclick = e => seek(clip(e) * d.clip);
    field.onpointermove = e => {
      const row = Math.floor((e.clientY - field.getBoundingClientRect().top) / tall), c = clip(e), inside = row < m.rows.length;
      const value = (inside ? panel.z[row] : panel.sentence ?? [])[c];
      told.textContent = `${panel.name} · ${inside ? m.rows[row] : 'sentence'} · ${clock(c * d.clip)} to ${clock((c + 1) * d.clip)}: ${value ?? '–'}${panel.about ? ' · ' + panel.about : ''}`;
    };
    svg.append(field);
  });
  svg.setAttribute('height', y + high + 26);
  host.replaceChildren(svg, told);
}
