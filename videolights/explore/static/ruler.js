function render({ el }) {
  let tried = "";
  const check = () => {
    const plot = el.closest(".vl-canvas")?.querySelector(".js-plotly-plot .main-svg"), state = `${plot?.clientWidth} ${el.clientWidth}`;
    if (!plot || !el.clientWidth || state === tried || Math.abs(plot.clientWidth - el.clientWidth) < 3) return;
    tried = state; dispatchEvent(new Event("resize"));   // what plotly listens to
  };
  const keys = e => { if (el.closest(".jp-OutputArea-output")?.contains(e.target)) e.target.setAttribute("data-lm-suppress-shortcuts", "true"); };
  const watch = new ResizeObserver(check), again = setInterval(check, 300);
  watch.observe(el); document.addEventListener("focusin", keys);
  return () => { watch.disconnect(); clearInterval(again); document.removeEventListener("focusin", keys); };
}
export default { render };
