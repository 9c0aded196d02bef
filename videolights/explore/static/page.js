const dark = matchMedia('(prefers-color-scheme: dark)');
const config = {displayModeBar: false, responsive: true};
const themed = figure => ({...figure, layout: {...figure.layout, template: looks[dark.matches ? 'dark' : 'light']}});
const paint = change => document.querySelectorAll('.js-plotly-plot').forEach(g => Plotly.relayout(g, change));
const follow = () => paint({template: looks[dark.matches ? 'dark' : 'light']});
const ready = (async () => {
  const library = document.createElement('script');
  library.textContent = await unpack(document.getElementById('plotly').textContent);
  document.head.append(library);
  for (const s of document.querySelectorAll('script[data-figure]'))
    await Plotly.newPlot(s.dataset.figure, themed(Object.assign(JSON.parse(await unpack(s.textContent)), {config})));
})();
ready.catch(e => document.body.prepend(`The figures cannot be drawn: ${e.message}. This page needs a browser of 2023 or later.`));
dark.addEventListener('change', follow);
addEventListener('beforeprint', () => paint({template: looks.light, width: 690}));
addEventListener('afterprint', () => { paint({width: null, autosize: true}); follow(); });
