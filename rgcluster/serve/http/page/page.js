// Drop a photo, toggle what it should be, look at what comes back. No framework, nothing from elsewhere.

const $ = (id) => document.getElementById(id);
const STEPS = 9;
const ENLARGED = 256;

const state = {
  model: null, // of /v1/models
  domains: null, // of /v1/domains
  image: null, // the photo, a Blob
  own: null, // {attribute: 0 | 1} as the model sees the photo
  wanted: null, // {attribute: 0 | 1} as the person wishes
  seed: 1,
  answer: null, // the last guided answer
  version: 0, // the one shown
  frames: null, // pictures on the way, or null where they are out of date
  asking: null, // AbortController of the request under way
};

const png = (text) => `data:image/png;base64,${text}`;
const words = (name) => name.replaceAll("_", " ").toLowerCase().replace(/^./, (first) => first.toUpperCase());

// ---- talking to the server

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem("key");
  if (key) headers["X-API-Key"] = key;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (response.status === 401) {
    await askForKey();
    return call(path, options);
  }
  if (response.status === 429 || response.status === 503) {
    const seconds = Number(response.headers.get("Retry-After") || 1);
    const tries = options.tries ?? 4;
    if (tries > 0) {
      say("The server is busy; trying again …");
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      return call(path, { ...options, tries: tries - 1 });
    }
  }
  if (!response.ok) {
    const fault = (await response.json().catch(() => ({}))).error;
    throw new Error(fault ? sentence(`${fault.message}: ${fault.remedy}`) : `The server answered ${response.status}.`);
  }
  return response;
}

function ask(path, parameters, signal) {
  const query = new URLSearchParams({ model: state.model.name, fit: $("fit").value, ...parameters });
  const body = { method: "POST", body: state.image, headers: { "Content-Type": "application/octet-stream" }, signal };
  return call(`/v1/${path}?${query}`, body).then((response) => response.json());
}

function askForKey() {
  const dialog = $("key-dialog");
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("key", $("key").value);
      done();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.?$/, ".");
const say = (text) => { $("status").textContent = text; };

function complain(error) {
  if (error.name === "AbortError") return;
  $("error").textContent = error.message;
  $("error").hidden = false;
  say("");
  document.body.classList.remove("busy");
}

// ---- the photo

async function choose(blob) {
  $("error").hidden = true;
  const before = state.image;
  state.image = blob;
  try {
    await look();
  } catch (error) {
    state.image = before; // what was there stays
    complain(error);
  }
}

async function look() {
  // The photo's own domain: nothing is asked of it.
  state.asking?.abort();
  state.asking = new AbortController();
  document.body.classList.add("busy");
  say("Looking at the photo …");
  const answer = await ask("translate", { target: "", guidance: "off" }, state.asking.signal);
  state.own = answer.targets[0];
  state.wanted = { ...state.own };
  show($("before"), answer.input, "Your photo as the networks see it");
  $("chosen").src = png(answer.input);
  const preview = new Image();
  const address = URL.createObjectURL(state.image);
  preview.onload = () => { $("chosen").src = address; };
  preview.src = address;
  $("chosen").alt = "The chosen photo";
  $("chosen").hidden = false;
  $("drop").classList.add("full");
  drawAttributes();
  drawEnds();
  await translate();
}

function takeFile(file) {
  if (!file) return;
  markExample(null);
  choose(file);
}

$("file").addEventListener("change", (event) => {
  takeFile(event.target.files[0]);
  event.target.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  takeFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) takeFile(file);
});

async function drawExamples() {
  const { examples } = await (await call(`/v1/examples?model=${encodeURIComponent(state.model.name)}`)).json();
  $("examples").replaceChildren(...await Promise.all(examples.map(async ({ number, url }) => {
    const blob = await (await call(url)).blob(); // by fetch: an <img> would not send the key
    const button = document.createElement("button");
    button.type = "button";
    button.ariaPressed = "false";
    const image = new Image();
    image.src = URL.createObjectURL(blob);
    image.alt = `Example ${number + 1}`;
    button.append(image);
    button.addEventListener("click", () => { markExample(button); choose(blob); });
    return button;
  })));
}

function markExample(chosen) {
  for (const button of $("examples").children) button.ariaPressed = String(button === chosen);
}

// ---- what it should be

function drawAttributes() {
  const { attributes, exclusive, exactly_one: exactlyOne } = state.domains;
  const grouped = new Set(exclusive.flat());
  const parts = exclusive.filter((group) => group.length > 1).map((group) => drawGroup(group, exactlyOne));
  const alone = attributes.filter((name) => !grouped.has(name));
  if (alone.length) {
    const box = fieldset(parts.length ? "And" : "Attributes");
    for (const name of alone) {
      box.lastChild.append(chip("checkbox", name, words(name), state.wanted[name] === 1, (on) => {
        state.wanted[name] = on ? 1 : 0;
      }, name));
    }
    parts.push(box);
  }
  $("attributes").replaceChildren(...parts);
  markChanges();
}

function drawGroup(group, exactlyOne) {
  const last = group[0].split("_").at(-1);
  const shared = group.every((name) => name.includes("_") && name.endsWith(`_${last}`));
  const box = fieldset(shared ? words(last) : "One of");
  const radio = `group-${group[0]}`;
  const set = (chosen) => { for (const name of group) state.wanted[name] = name === chosen ? 1 : 0; };
  for (const name of group) {
    const label = words(shared ? name.slice(0, -last.length - 1) : name);
    box.lastChild.append(chip("radio", radio, label, state.wanted[name] === 1, () => set(name), name));
  }
  if (!exactlyOne) {
    const none = group.every((name) => !state.wanted[name]);
    box.lastChild.append(chip("radio", radio, "Other", none, () => set(null), group.join(",")));
  }
  return box;
}

function fieldset(title) {
  const box = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = title;
  const chips = document.createElement("div");
  chips.className = "chips";
  box.append(legend, chips);
  return box;
}

function chip(type, name, text, checked, change, attributes) {
  const label = document.createElement("label");
  label.className = "chip";
  label.dataset.attributes = attributes;
  const input = document.createElement("input");
  Object.assign(input, { type, name, checked });
  input.addEventListener("change", () => { change(input.checked); markChanges(); soon(); });
  const shown = document.createElement("span");
  shown.textContent = text;
  label.append(input, shown);
  return label;
}

function markChanges() {
  for (const label of document.querySelectorAll(".chip")) {
    const names = label.dataset.attributes.split(",");
    const input = label.firstChild;
    const differs = names.some((name) => state.own[name] !== state.wanted[name]);
    label.classList.toggle("changed", differs && (input.type === "checkbox" || input.checked));
  }
}

function vector(domain) {
  const names = state.domains.attributes;
  const values = names.map((name) => String(domain[name]));
  if (values.some((value) => !names.includes(value))) return values.join(",");
  // The server would take the values for attributes that are called 0 and 1.
  return names.map((name) => (domain[name] ? name : `-${name}`)).join(",");
}

let timer = 0;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => translate().catch(complain), 120);
}

// ---- the result

async function translate() {
  if (!state.image) return;
  state.asking?.abort();
  state.asking = new AbortController();
  const { signal } = state.asking;
  document.body.classList.add("busy");
  $("error").hidden = true;
  const start = performance.now();
  const common = { target: vector(state.wanted), samples: $("samples").value, seed: state.seed };
  const [guided, plain] = await Promise.all([
    ask("translate", { ...common, guidance: $("guidance").value }, signal),
    ask("translate", { ...common, guidance: "off" }, signal),
  ]);
  state.answer = { guided, plain };
  state.version = Math.min(state.version, guided.images.length - 1);
  state.frames = null;
  document.body.classList.remove("busy");
  drawResult();
  resetWalk();
  const milliseconds = Math.round(performance.now() - start);
  const changed = Object.keys(state.own).filter((name) => state.own[name] !== state.wanted[name]);
  say(changed.length
    ? `${guided.images.length} versions, each with and without retrieval, in ${milliseconds} ms.`
    : "Nothing is changed yet: choose something under 2.");
}

function drawResult() {
  const { guided, plain } = state.answer;
  const version = state.version;
  const described = state.domains.attributes.filter((name) => state.wanted[name]).map(words).join(", ") || "none of the attributes";
  show($("after"), guided.images[version], `The photo as: ${described}`);
  show($("plain"), plain.images[version], `Without retrieval, as: ${described}`);
  $("results").classList.remove("empty");
  show($("mask"), guided.masks[version], "Bright was painted, dark was kept");
  $("mask").hidden = $("painted").ariaPressed !== "true";
  $("after-note").textContent = !$("mask").hidden ? "bright: painted, dark: kept" : guided.degraded ? "no real images could be had" : guided.guidance === "random" ? "helped by random images" : "helped by the images below";
  $("painted").disabled = $("again").disabled = false;
  $("download").href = png(guided.images[version]);
  $("download").removeAttribute("aria-disabled");
  $("warning").hidden = !guided.warnings.length;
  $("warning").textContent = guided.warnings.map((one) => sentence(one.message)).join(" ");
  $("versions").replaceChildren(...(guided.images.length > 1 ? guided.images : []).map((text, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.ariaPressed = String(number === version);
    const image = new Image();
    show(image, text, `Version ${number + 1}`);
    button.append(image);
    button.addEventListener("click", () => {
      state.version = number;
      drawResult();
      $("versions").children[number].focus();
    });
    return button;
  }));
  drawNear(guided.neighbours[version] ?? []);
}

function drawNear(neighbours) {
  const quiet = document.createElement("p");
  quiet.className = "quiet";
  quiet.textContent = "None: the network painted alone.";
  $("near").replaceChildren(...(neighbours.length ? neighbours.map((one, number) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = one.distance === null ? "drawn at random" : ["nearest", "second", "third"][number] ?? `${number + 1}th`;
    if (one.distance !== null) caption.title = `distance ${one.distance}`;
    if (one.image) {
      const image = new Image();
      show(image, one.image, `Real image ${number + 1}`);
      figure.append(image);
    }
    figure.append(caption);
    return figure;
  }) : [quiet]));
}

function show(image, text, description) {
  image.alt = description;
  image.hidden = false;
  draw(image, text);
}

// A small picture is enlarged by doubling, again and again: softer than the browser's one big step.
async function draw(image, text) {
  image.dataset.wanted = text; // the latest wins
  const source = new Image();
  source.src = png(text);
  await source.decode();
  let from = source;
  while (from.width < ENLARGED) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 2 * from.width;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(from, 0, 0, canvas.width, canvas.height);
    from = canvas;
  }
  if (image.dataset.wanted === text) image.src = from === source ? source.src : from.toDataURL();
}

$("painted").addEventListener("click", () => {
  const on = $("painted").ariaPressed !== "true";
  $("painted").ariaPressed = String(on);
  $("painted").textContent = on ? "Show the picture" : "Show what was painted";
  drawResult();
});
$("again").addEventListener("click", () => { state.seed += 1; translate().catch(complain); });
$("samples").addEventListener("input", () => { $("samples-shown").value = $("samples").value; soon(); });
$("guidance").addEventListener("change", soon);
$("fit").addEventListener("change", () => state.image && choose(state.image));

// ---- the way between two domains

function drawEnds() {
  const choices = [["own", "the photo"], ["wanted", "your wish"], ...state.domains.attributes.flatMap((name) => [
    [`+${name}`, words(name).toLowerCase()], ...(inGroup(name) ? [] : [[`-${name}`, `not ${words(name).toLowerCase()}`]]),
  ])];
  for (const [id, chosen] of [["start", "own"], ["end", "wanted"]]) {
    const before = $(id).value || chosen;
    $(id).replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    $(id).value = before;
  }
}

const inGroup = (name) => state.domains.exclusive.some((group) => group.includes(name));

function endVector(choice) {
  if (choice === "own") return vector(state.own);
  if (choice === "wanted") return vector(state.wanted);
  const domain = { ...state.own };
  const name = choice.slice(1);
  if (choice.startsWith("+")) {
    for (const group of state.domains.exclusive) if (group.includes(name)) for (const other of group) domain[other] = 0;
  }
  domain[name] = choice.startsWith("+") ? 1 : 0;
  return vector(domain);
}

function resetWalk() {
  state.frames = null;
  $("walk").disabled = false;
  const end = $("walk").value > 0 && $("end").value === "wanted";
  show($("walk-low"), end ? state.answer.guided.images[0] : state.answer.guided.input, "A picture on the way");
  $("walk-high").hidden = true;
  $("walk").value = end ? 1 : 0;
}

let walking = null;
async function walk() {
  if (!state.frames) {
    walking ??= ask("interpolate", {
      start: endVector($("start").value), end: endVector($("end").value), steps: STEPS, guidance: $("guidance").value,
    }).then((answer) => { state.frames = answer.images; }).finally(() => { walking = null; });
    await walking;
  }
  const place = Number($("walk").value) * (STEPS - 1);
  const low = Math.min(Math.floor(place), STEPS - 2);
  show($("walk-low"), state.frames[low], "A picture on the way");
  show($("walk-high"), state.frames[low + 1], "");
  $("walk-high").style.opacity = String(place - low);
  $("walk").ariaValueText = `${Math.round(100 * $("walk").value)} percent of the way`;
}

$("walk").addEventListener("input", () => walk().catch(complain));
for (const id of ["start", "end"]) $(id).addEventListener("change", () => { state.frames = null; walk().catch(complain); });

// ---- begin

async function useModel(model) {
  state.model = model;
  state.domains = await (await call(`/v1/domains?model=${encodeURIComponent(model.name)}`)).json();
  await drawExamples();
  if (state.image) await choose(state.image);
}

async function begin() {
  const { models } = await (await call("/v1/models")).json();
  $("model").replaceChildren(...models.map((model) => new Option(model.name, model.name)));
  $("model-choice").hidden = models.length < 2;
  $("model").addEventListener("change", () => {
    useModel(models.find((model) => model.name === $("model").value)).catch(complain);
  });
  await useModel(models[0]);
  document.documentElement.dataset.ready = "true";
}

begin().catch(complain);
