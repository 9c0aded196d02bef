ready.then(async () => {
  const $ = id => document.getElementById(id), queries = JSON.parse(await unpack($('queries').textContent));
  queries.forEach((q, i) => $('query').add(new Option((q.iou === null ? '' : q.iou.toFixed(2) + '  ') + q.query, i)));
  Object.keys(queries[0].maps).forEach(name => $('map').add(new Option(name, name)));
  $('query').selectedIndex = queries.length >> 1;
  const video = $('video'), films = JSON.parse($('films').textContent), put = async (id, figure) => {
    $(id).style.height = figure.layout.height + 'px';
    await Plotly.react(id, {...themed(structuredClone(figure)), config});
  };
  const draw = async () => {
    const q = queries[$('query').value], map = q.maps[$('map').value];
    $('title').textContent = '“' + q.query + '”'; $('outcome').textContent = q.outcome; $('vid').textContent = q.vid + ', qid ' + q.qid;
    if (video.dataset.of !== q.vid) {
      const film = films[q.vid] ?? q.video;
      video.hidden = !film; video.dataset.of = q.vid;
      if (film) video.src = film;
    }
    await put('timeline', q.timeline);
    if (map) await put('heat', map);
    for (const id of ['heat', 'timeline']) if ($(id)?.on && !$(id).dataset.listens) {
      $(id).dataset.listens = 1;
      $(id).on('plotly_click', e => { if (!video.hidden) video.currentTime = e.points[0].base ?? e.points[0].x; });
    }
  };
  video.onerror = () => { video.hidden = true; };
  $('query').onchange = $('map').onchange = draw;
  await draw();
});
