// The page: searches, classifies, compares models. No request leaves the server that sent it.
"use strict";

const byId = (id) => document.getElementById(id);
const state = { models: [], token: sessionStorage.getItem("token") || "", images: {} };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function ask(path, body) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const options = { headers };
  if (body) {
    options.method = "POST";
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    await askForToken();
    return ask(path, body);
  }
  const type = answer.headers.get("content-type") || "";
  if (!answer.ok) {
    const told = type.startsWith("application/json") ? (await answer.json()).error.message : "";
    throw new Error(told || `the server answered ${answer.status}`);
  }
  return type.startsWith("application/json") ? answer.json() : answer.blob();
}

function askForToken() {
  const dialog = byId("token-dialog");
  return new Promise((resolve) => {
    if (!dialog.open) dialog.showModal();
    dialog.addEventListener("close", () => {
      state.token = byId("token").value.trim();
      sessionStorage.setItem("token", state.token);
      resolve();
    }, { once: true });
  });
}

function say(kind, text, isWrong = false) {
  const status = byId(`${kind}-status`);
  status.textContent = text;
  status.classList.toggle("wrong", isWrong);
}

// what is chosen

function setOptions(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

async function begin() {
  state.models = (await ask("/v1/models")).data;
  const indexed = state.models.filter((one) => Object.keys(one.rows).length);
  const all = [...indexed.map((one) => [one.id, one.id])];
  if (indexed.length > 1) all.unshift(["", "all, side by side"]);
  setOptions(byId("index"), all);
  byId("index-field").hidden = indexed.length < 2;
  const modalities = [...new Set(indexed.flatMap((one) => Object.keys(one.rows)))];
  setOptions(byId("find"), [["", "what fits"], ...modalities.map((name) => [name, `${name}s`])]);
  byId("precision-field").hidden = !indexed.some((one) => one.calibrated);
  const rows = indexed.map((one) => Object.entries(one.rows)
    .map(([name, count]) => `${count.toLocaleString("en")} ${name} rows`).join(", "));
  say("search", indexed.length ? `${indexed.map((one, i) => `${one.id}: ${rows[i]}`).join("; ")}`
    : "A model alone is served: there is nothing to search.");
  byId("search-form").querySelector(".go").disabled = !indexed.length;
  if (!indexed.length) choose("classify");
}

function choose(name, focus = false) {
  for (const one of ["search", "classify"]) {
    const tab = byId(`tab-${one}`);
    tab.setAttribute("aria-selected", String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
    byId(one).hidden = one !== name;
    if (one === name && focus) tab.focus();
  }
}

const shown = () => (byId("search").hidden ? "classify" : "search");

async function setImage(kind, file) {
  if (file && !file.type.startsWith("image/")) {
    say(kind, `${file.name} is no image`, true);
    return;
  }
  state.images[kind] = file ? await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  }) : null;
  byId(`${kind}-given`).hidden = !file;
  if (file) byId(`${kind}-preview`).src = state.images[kind];
  else byId(`${kind}-image`).value = "";
}

// answers

function score(hit) {
  const cosine = `cosine ${hit.similarity.toFixed(3)}`;
  return hit.probability === null ? cosine
    : `${Math.round(100 * hit.probability)} % right · ${cosine}`;
}

function hitCard(hit) {
  const card = element("div", { class: "hit" });
  const name = hit.found || hit.source;
  if (hit.image) {
    const image = element("img", { alt: name, loading: "lazy" });
    if (state.token) ask(hit.image).then((blob) => { image.src = URL.createObjectURL(blob); });
    else image.src = hit.image;
    card.append(image);
  }
  card.append(element("p", {}, hit.image ? name.split("/").pop() : name));
  card.append(element("p", { class: "score" }, score(hit)));
  return card;
}

function answerOf(title, answer) {
  const block = element("div", { class: "answer" }, element("h2", {}, title));
  const isText = answer.hits.every((hit) => !hit.image);
  if (!answer.hits.length) {
    block.append(element("p", { class: "no-match" }, answer.nearest
      ? `No match. The nearest: ${answer.nearest.found} (${score(answer.nearest)}).`
      : "Nothing was found."));
  }
  for (const note of answer.notes) block.append(element("p", { class: "note" }, note));
  const list = element("ol", { class: isText ? "hits texts" : "hits" });
  for (const hit of answer.hits) list.append(element("li", {}, hitCard(hit)));
  block.append(list);
  return block;
}

async function search() {
  const text = byId("query").value.trim();
  const image = state.images.search;
  if (!text && !image) {
    say("search", "Type some words, or choose an image.", true);
    return;
  }
  const body = image ? { image } : { text };
  body.k = 12;
  if (byId("find").value) body.find = byId("find").value;
  const one = byId("index").value;
  const asked = one ? [one] : state.models.filter((m) => Object.keys(m.rows).length).map((m) => m.id);
  say("search", "Searching …");
  const begun = performance.now();
  const answers = await Promise.all(asked.map((index) => {
    const model = state.models.find((m) => m.id === index);
    const precision = model.calibrated && byId("precision").value;
    const own = precision ? { min_precision: Number(precision) } : {};
    return ask("/v1/search", { ...body, ...own, index });
  }));
  byId("answers").replaceChildren(...answers.map((answer, i) => answerOf(asked[i], answer)));
  const count = answers.reduce((sum, answer) => sum + answer.hits.length, 0);
  say("search", `${count} results in ${Math.round(performance.now() - begun)} ms`);
}

function barsOf(title, answer) {
  const block = element("div", { class: "answer" }, element("h2", {}, title));
  if (answer.none_of_these) block.append(element("p", { class: "no-match" }, "None of these."));
  const list = element("ul", { class: "bars" });
  answer.classes.forEach((one, i) => {
    const percent = (100 * one.probability).toFixed(1);
    const fill = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    fill.setAttribute("class", "fill");
    fill.setAttribute("width", "100%");
    fill.setAttribute("aria-hidden", "true");
    fill.style.width = "100%";
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    bar.setAttribute("width", `${percent}%`);
    bar.setAttribute("height", "100%");
    fill.append(bar);
    const own = one.calibrated === null ? "" : ` · by itself ${(100 * one.calibrated).toFixed(0)} %`;
    list.append(element("li", i ? {} : { class: "first" },
      element("div", { class: "name" }, element("span", {}, one.name),
        element("span", { class: "value" }, `${percent} %${own}`)),
      element("div", { class: "track" }, fill)));
  });
  block.append(list);
  return block;
}

async function classify() {
  const classes = byId("classes").value.split(/[\n,]/).map((name) => name.trim()).filter(Boolean);
  if (!state.images.classify || !classes.length) {
    say("classify", state.images.classify ? "Type some classes." : "Choose an image.", true);
    return;
  }
  say("classify", "Classifying …");
  const able = state.models.filter((one) => ["image", "text"].every((m) => one.modalities.includes(m)));
  const answers = await Promise.all(able.map((one) =>
    ask("/v1/classify", { image: state.images.classify, classes, model: one.id })));
  byId("bars").replaceChildren(...answers.map((answer) => barsOf(answer.model, answer)));
  say("classify", `${classes.length} classes`);
}

// what is done

function when(id, kind, action) {
  byId(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await action();
    } catch (error) {
      say(kind, error.message, true);
    }
  });
}

when("search-form", "search", search);
when("classify-form", "classify", classify);

for (const kind of ["search", "classify"]) {
  byId(`tab-${kind}`).addEventListener("click", () => choose(kind));
  byId(`${kind}-image`).addEventListener("change", (event) => setImage(kind, event.target.files[0]));
  byId(`${kind}-clear`).addEventListener("click", () => setImage(kind, null));
}

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  if (["ArrowLeft", "ArrowRight"].includes(event.key)) {
    choose(shown() === "search" ? "classify" : "search", true);
  }
});

async function given(files) {
  const file = [...files].find((one) => one.type.startsWith("image/"));
  if (!file) return;
  await setImage(shown(), file);
  if (shown() === "search") byId("search-form").requestSubmit();
}

document.addEventListener("paste", (event) => given(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-dropping");
});
document.addEventListener("dragleave", () => document.body.classList.remove("is-dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("is-dropping");
  given(event.dataTransfer.files);
});

begin().catch((error) => say("search", error.message, true));
