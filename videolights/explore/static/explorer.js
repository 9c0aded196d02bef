(async () => {
  const $ = id => document.getElementById(id), queries = JSON.parse(await unpack($('queries').textContent)), video = $('video');
  queries.forEach((q, i) => $('query').add(new Option((q.iou === null ? '' : q.iou.toFixed(2) + '  ') + q.query, i)));
  Object.keys(queries[0].maps).forEach(name => $('map').add(new Option(name, name)));
  $('query').selectedIndex = queries.length >> 1;
  let move = () => {};
  const loaded = document.readyState === 'loading' ? new Promise(done => addEventListener('DOMContentLoaded', done)) : null;
  const seek = t => { move(t); if (!video.hidden) video.currentTime = t; };
  const draw = async () => {
    const q = queries[$('query').value], map = q.maps[$('map').value];
    $('title').textContent = '“' + q.query + '”'; $('outcome').textContent = q.outcome; $('vid').textContent = q.vid + ', qid ' + q.qid;
    move = timeline($('timeline'), q.timeline, seek);
    if (map) maps($('heat'), map, q.timeline, seek);
    await loaded;                                      // the films come last in the page
    const film = JSON.parse($('films').textContent)[q.vid] ?? q.video;
    if (video.dataset.of === q.vid) return;
    video.hidden = !film; video.dataset.of = q.vid;
    if (film) video.src = film;
  };
  video.ontimeupdate = () => move(video.currentTime);
  video.onerror = () => { video.hidden = true; };
  $('query').onchange = $('map').onchange = draw;
  let wide = innerWidth;
  addEventListener('resize', () => { if (innerWidth !== wide) { wide = innerWidth; draw(); } });
  await draw();
})().catch(e => document.body.prepend(`This page cannot be drawn: ${e.message}. It needs a browser of 2023 or later.`));
