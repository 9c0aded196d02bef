function render({ model, el }) {
  el.classList.add("vl-words"); el.setAttribute("role", "group"); el.setAttribute("aria-label", "words that the model may read");
  const draw = () => {
    const keep = model.get("keep"), words = model.get("words"), focused = [...el.children].indexOf(document.activeElement);
    el.replaceChildren(...words.map((word, i) => {
      const b = document.createElement("button");
      b.textContent = word; b.setAttribute("aria-pressed", keep[i]);
      b.title = keep[i] ? "hide this word from the model" : "let the model read this word";
      b.onclick = () => { model.set("keep", model.get("keep").map((k, j) => j === i ? !k : k)); model.save_changes(); };
      return b;
    }));
    if (focused >= 0 && el.children[focused]) el.children[focused].focus();
  };
  model.on("change:keep", draw); model.on("change:words", draw); draw();
}
export default { render };
