// The service's own description as a page, and a form to try it. No library, no inline script: the page may load nothing from elsewhere.
const make = (tag, text = "", ...parts) => {
  const node = document.createElement(tag);
  node.textContent = text;
  node.append(...parts);
  return node;
};

const table = (head, rows) => make("table", "", make("tr", "", ...head.map(text => make("th", text))),
  ...rows.map(row => make("tr", "", ...row.map(text => make("td", text)))));

function schemaOf(api, content) {
  const schema = Object.values(content ?? {})[0]?.schema ?? {};
  return schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

const typeOf = field => field.type === "array" ? `one or more: ${typeOf(field.items)}` : field.format === "binary" ? "file" : field.type ?? "any";

function curl(path, method, body) {
  const address = location.origin + path;
  if (method === "get") return `curl ${address}`;
  if (body["multipart/form-data"]) return `curl -F file=@video.mp4 -F "query=a star blinks" ${address}`;
  return `curl --json '{"path": "a.mp4", "queries": ["a star blinks"]}' ${address}`;
}

function describe(api, path, method, operation) {
  const body = operation.requestBody?.content, schema = schemaOf(api, body);
  const fields = Object.entries(schema.properties ?? {}).map(([name, field]) => [name, typeOf(field), field.description ?? ""]);
  const errors = Object.keys(operation.responses).filter(status => status >= 400);
  const section = make("section", "", make("h2", `${method.toUpperCase()} ${path}`), make("p", operation.description ?? operation.summary ?? ""));
  if (fields.length) section.append(make("p", `Takes ${Object.keys(body)[0]}:`), table(["field", "type", ""], fields));
  if (errors.length) section.append(make("p", `Errors are {"error": "one line"} with status ${errors.join(", ")}.`));
  section.append(make("pre", curl(path, method, body ?? {})));
  return section;
}

async function show() {
  const api = await (await fetch("openapi.json")).json();
  document.querySelector("#about").prepend(`${api.info.description} Version ${api.info.version}. `);
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods)) document.querySelector("#paths").append(describe(api, path, method, operation));
}

async function ask(event) {
  event.preventDefault();
  const answer = document.querySelector("#answer");
  answer.textContent = "working ...";
  try {
    const response = await fetch("predict", { method: "POST", body: new FormData(event.target) });
    answer.textContent = JSON.stringify(await response.json(), null, 1);
  } catch (error) { answer.textContent = `no answer: ${error.message}`; }
}

document.querySelector("#try").addEventListener("submit", ask);
show();
