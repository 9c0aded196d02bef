function look() {
  const probe = document.createElement("i");
  probe.style.color = "var(--jp-layout-color0, #fff)"; document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number); probe.remove();
  return .3 * r + .6 * g + .1 * b < 128 ? "dark" : "light";
}
function render({ model, el }) {
  el.classList.add("vl-player");
  const video = Object.assign(document.createElement("video"), { controls: true, muted: true, preload: "auto" });
  const note = Object.assign(document.createElement("p"), { className: "vl-note" });
  el.append(video, note);
  let url = null;
  const seek = () => { if (url) video.currentTime = model.get("time"); };
  const load = () => {
    if (url) URL.revokeObjectURL(url);
    const bytes = model.get("video");
    url = bytes && bytes.byteLength ? URL.createObjectURL(new Blob([bytes], { type: model.get("kind") })) : null;
    video.hidden = !url; note.textContent = model.get("note");
    if (url) { video.src = url; seek(); } else video.removeAttribute("src");
  };
  const tell = (name, value) => { if (model.get(name) !== value) { model.set(name, value); model.save_changes(); } };
  video.addEventListener("timeupdate", () => { if (!video.paused) tell("now", video.currentTime); });
  video.addEventListener("error", () => { note.textContent = "This browser cannot play the file; frames are shown instead."; });
  model.on("change:loaded", load); model.on("change:time", seek);
  const watch = new MutationObserver(() => tell("look", look()));
  watch.observe(document.body, { attributes: true });
  load(); tell("look", look());
  return () => { watch.disconnect(); if (url) URL.revokeObjectURL(url); };
}
export default { render };
