function render({ model, el }) {
  el.classList.add("vl-code");
  const pre = document.createElement("pre"), button = Object.assign(document.createElement("button"), { textContent: "Copy" });
  el.append(pre, button);
  const draw = () => { pre.textContent = model.get("text"); button.textContent = "Copy"; };
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(model.get("text")); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(pre); button.textContent = "Selected: press Ctrl+C"; }
  };
  model.on("change:text", draw); draw();
}
export default { render };
