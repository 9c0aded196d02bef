const $ = id => document.getElementById(id), video = $('video');
let answer = null, moves = [], moments = [], now = -1, running = null, stopAt = Infinity;

function say(text, bad = false) { $('status').textContent = text; $('status').classList.toggle('bad', bad); }

function busy(on) {
  $('go').disabled = on; $('stop').hidden = !on; $('progress').hidden = !on;
  if (on) $('progress').removeAttribute('value');
}

function seek(start, end) {
  stopAt = end ?? Infinity;
  moves.forEach(move => move(start));
  if (video.hidden) return;
  video.currentTime = start;
  if (end !== undefined) video.play();
}

function step(by) {
  if (!moments.length) return;
  now = (now + by + moments.length) % moments.length;
  const [start, end, score, query] = moments[now];
  seek(start, end);
  say(`Moment ${now + 1} of ${moments.length}: “${query}”, ${clock(start)} to ${clock(end)}, confidence ${score.toFixed(2)}`);
}

video.ontimeupdate = () => {
  moves.forEach(move => move(video.currentTime));
  if (video.currentTime >= stopAt) { video.pause(); stopAt = Infinity; }
};
video.onerror = () => { video.hidden = true; $('frames').hidden = false; };
addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input, textarea, select')) return;
  if (e.key === 'n') step(1);
  if (e.key === 'p') step(-1);
});

const unit = values => { const low = Math.min(...values), high = Math.max(...values); return values.map(v => (v - low) / Math.max(1e-9, high - low)); };

function draw() {
  $('found').replaceChildren(); moves = [];
  answer.predictions.forEach((p, k) => {
    const part = document.createElement('article'), head = document.createElement('h2'), line = document.createElement('div');
    head.textContent = `“${p.query}”`;
    part.append(head);
    for (const said of p.warnings ?? []) part.append(Object.assign(document.createElement('p'), { className: 'warning', textContent: `Take care: ${said}.` }));
    part.append(line);
    $('found').append(part);
    const d = { duration: answer.duration_s, clip: answer.clip_seconds, windows: [], systems: { moment: p.pred_relevant_windows.slice(0, 5) }, saliency: null, curves: { moment: unit(p.pred_saliency_scores) }, frames: k ? [] : answer.frames };
    moves.push(timeline(line, d, seek));
    if (!p.map) return;
    const map = document.createElement('div'), why = document.createElement('p');
    map.id = `map${k}`; why.className = 'soft';
    why.textContent = 'How well each word fits each clip, less the word’s mean: red is better than elsewhere.';
    part.append(why, map);
    const far = Math.max(1e-6, ...p.map.values.flat().map(Math.abs));
    maps(map, { rows: p.map.words, unit: 'fit', ramp: 'RdBu_r', low: -far, high: far, panels: [{ name: 'words × clips', z: p.map.values }] }, d, seek);
  });
  moments = answer.predictions.flatMap(p => p.pred_relevant_windows.slice(0, 5).map(w => [...w, p.query])).sort((a, b) => b[2] - a[2]);
  now = -1;
}

const cell = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
function table() {
  const rows = answer.predictions.flatMap(p => p.pred_relevant_windows.map(([start, end, score], k) => [cell(answer.video), cell(p.query), k + 1, start, end, score]));
  return ['video,query,rank,start_s,end_s,confidence', ...rows.map(row => row.join(','))].join('\n') + '\n';
}

function edits(rate = 25) {                            // CMX 3600, moments of a confidence of 0.2 or more
  const code = t => { const f = Math.round(t * rate), two = n => String(n).padStart(2, '0'); return [f / rate / 3600, f / rate / 60 % 60, f / rate % 60, f % rate].map(n => two(Math.floor(n))).join(':'); };
  let at = 3600;
  const chosen = moments.filter(m => m[2] >= .2).sort((a, b) => a[0] - b[0]);
  const lines = chosen.map(([start, end, , query], k) => {
    const line = `${String(k + 1).padStart(3, '0')}  AX       V     C        ${code(start)} ${code(end)} ${code(at)} ${code(at + end - start)}\n* FROM CLIP NAME: ${answer.video}\n* COMMENT: ${query}`;
    at += end - start;
    return line;
  });
  return ['TITLE: moments', 'FCM: NON-DROP FRAME', ...lines].join('\n') + '\n';
}

function offer() {
  const stem = answer.video.replace(/.*\//, '').replace(/\.[^.]*$/, ''), { frames, ...plain } = answer;
  const kinds = { 'json': [JSON.stringify(plain, null, 1), 'application/json'], 'csv': [table(), 'text/csv'], 'edl': [edits(), 'text/plain'] };
  $('files').replaceChildren(...Object.entries(kinds).map(([ending, [text, type]]) => Object.assign(document.createElement('a'), {
    className: 'button', download: `${stem}.${ending}`, href: URL.createObjectURL(new Blob([text], { type })), textContent: `Save as ${ending.toUpperCase()}` })));
}

function show(found, source) {
  answer = found;
  $('answer').hidden = false;
  video.hidden = false; $('frames').hidden = true; stopAt = Infinity;
  if (video.src.startsWith('blob:')) URL.revokeObjectURL(video.src);
  video.src = source;
  $('frames').replaceChildren(...(found.frames ?? []).map((src, i, all) => {
    const at = clock((i + .5) * found.duration_s / all.length), figure = document.createElement('figure');
    figure.append(Object.assign(document.createElement('img'), { src, alt: `frame at ${at}` }), at);
    return figure;
  }));
  draw(); offer();
  const best = moments[0];
  say(best ? `Found: “${best[3]}”, ${clock(best[0])} to ${clock(best[1])}, confidence ${best[2].toFixed(2)}.` : 'Nothing was found.');
}

function send(address, body, type) {                   // fetch tells no progress of an upload
  return new Promise((done, failed) => {
    const request = running = new XMLHttpRequest();
    request.open('POST', address);
    if (type) request.setRequestHeader('Content-Type', type);
    request.upload.onprogress = e => { if (e.lengthComputable && e.loaded < e.total) $('progress').value = e.loaded / e.total; };
    request.upload.onload = () => { $('progress').removeAttribute('value'); say('The video has arrived and is being looked at…'); };
    request.onload = () => {
      let found;
      try { found = JSON.parse(request.responseText); } catch { found = { error: `the service answered ${request.status}` }; }
      if (request.status === 200) done(found); else failed(Error(found.error ?? `the service answered ${request.status}`));
    };
    request.onerror = () => failed(Error('the service cannot be reached; is it still running?'));
    request.onabort = () => failed(Error('cancelled'));
    request.send(body);
  });
}

async function ask() {
  const queries = $('queries').value.split('\n').map(q => q.trim()).filter(Boolean), file = $('file').files[0], path = $('path').value;
  if (!queries.length) return say('Write what to look for.', true);
  if (!file && !path) return say('Choose a video first.', true);
  busy(true); say(path ? 'The video is being looked at…' : 'Sending the video…');
  try {
    if (path) {
      const found = await send('predict/path?look=true', JSON.stringify({ path, queries }), 'application/json');
      show(found, 'videos/' + path.split('/').map(encodeURIComponent).join('/'));
      history.replaceState(null, '', '#' + new URLSearchParams([['video', path], ...queries.map(q => ['q', q])]));
    } else {
      const form = new FormData();
      form.append('file', file); queries.forEach(q => form.append('query', q));
      show(await send('predict?look=true', form), URL.createObjectURL(file));
      history.replaceState(null, '', location.pathname);
    }
  } catch (e) { say(e.message === 'cancelled' ? 'Cancelled.' : `That did not work: ${e.message}`, e.message !== 'cancelled'); }
  busy(false);
}

$('ask').onsubmit = e => { e.preventDefault(); ask(); };
$('stop').onclick = () => running?.abort();
$('file').onchange = () => { $('path').value = ''; };
$('path').onchange = () => { if ($('path').value) $('file').value = ''; };
for (const kind of ['dragover', 'dragleave', 'drop']) $('drop').addEventListener(kind, e => {
  e.preventDefault();
  $('drop').classList.toggle('over', kind === 'dragover');
  if (kind === 'drop' && e.dataTransfer.files.length) { $('file').files = e.dataTransfer.files; $('path').value = ''; }
});
let wide = innerWidth;
addEventListener('resize', () => { if (answer && innerWidth !== wide) { wide = innerWidth; draw(); } });

(async () => {
  const facts = await (await fetch('page/facts')).json();
  $('about').textContent = facts.about;
  facts.videos.forEach(name => $('path').add(new Option(name, name)));
  $('shelf').hidden = !facts.videos.length;
  if (facts.refusal) { say(facts.refusal, true); $('go').disabled = true; }
  const view = new URLSearchParams(location.hash.slice(1));
  if (!view.get('video')) return;
  $('path').value = view.get('video'); $('queries').value = view.getAll('q').join('\n');
  if ($('path').value) ask(); else say(`${view.get('video')} is not in this service's folder.`, true);
})();
