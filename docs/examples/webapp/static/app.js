"use strict";

const $ = (id) => document.getElementById(id);
const KINDS = {
  "image-to-video": "A video from a picture",
  "text-to-video": "A video from words",
  "multi-image-to-video": "A video from several pictures",
  "reference-to-video": "A video with people and things to keep",
  "video-to-video-edit": "A change to a video",
  "video-to-video-reference": "A new video after another one",
  "motion-control": "A figure that moves as in a video",
  "effects": "An effect with your picture",
  "avatar": "A person who speaks a sound file",
};
// What most people fill in; the rest waits under "More options".
const FIRST = new Set(["prompt", "image_url", "image_list", "video_url", "audio_url",
  "effect_scene", "duration", "aspect_ratio"]);

// ---- The form: only the fields that the chosen model takes

let catalogue = [];
let priced = ""; // the last question for a price
const dollars = (usd) => `$${usd.toLocaleString("en", { minimumFractionDigits: 2,
  maximumFractionDigits: 2 })}`;
const chosen = () => catalogue.find((model) => model.id === $("model").value);
const worded = (name) => {
  const words = name.replace(/_url(s?)$/, "$1").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
};

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function option(value, text = value) {
  return element("option", { value, textContent: text });
}

function inputFor(name, field) {
  if (field.medium === "video") {
    return element("input", { type: "url", placeholder: "https://…" });
  }
  if (field.medium) {
    const accept = field.medium === "image" ? "image/png,image/jpeg" : "audio/*";
    return element("input", { type: "file", accept, multiple: field.several });
  }
  if (field.choices.length) {
    const none = field.required ? [] : [option("", `default (${field.default ?? "none"})`)];
    return element("select", {}, ...none, ...field.choices.map((it) => option(it)));
  }
  if (field.type === "boolean") {
    return element("select", {},
      option("", `default (${field.default ? "yes" : "no"})`),
      option("true", "yes"), option("false", "no"));
  }
  if (field.type === "number" || field.type === "integer") {
    return element("input", { type: "number", step: "any",
      min: field.minimum ?? "", max: field.maximum ?? "" });
  }
  const json = field.type === "array" || field.type === "object";
  const text = element("textarea", json ? { className: "json", placeholder: "JSON" } : {});
  if (field.max_length) text.maxLength = field.max_length;
  return text;
}

function fieldFor(name, field) {
  const input = inputFor(name, field);
  Object.assign(input, { id: `field-${name}`, name, required: field.required });
  input.setAttribute("aria-describedby", `hint-${name} problem-${name}`);
  const label = element("label", { htmlFor: input.id, textContent: worded(name) });
  if (field.required) {
    label.append(element("span", { className: "needed", textContent: " (needed)" }));
  }
  const isPlain = field.choices.length || field.type === "boolean";
  const hint = element("p", { className: "hint", id: `hint-${name}`,
    textContent: isPlain ? "" : field.allowed });
  const problem = element("p", { className: "trouble", id: `problem-${name}` });
  return element("div", { className: "field" }, label, input, hint, problem);
}

function showFields() {
  const model = chosen();
  // What was typed stays when another model takes the field too. Files stay as well.
  const inputs = document.querySelectorAll("#form [id^=field-]");
  const kept = new Map([...inputs].map((input) => [input.name, input]));
  $("fields").replaceChildren();
  $("options").replaceChildren();
  for (const [name, field] of Object.entries(model.fields)) {
    const made = fieldFor(name, field);
    const before = kept.get(name);
    const input = made.querySelector("[name]");
    if (before && before.type === input.type && before.type === "file") {
      input.files = before.files;
    } else if (before && before.type === input.type) {
      const fits = input.tagName !== "SELECT"
        || [...input.options].some((it) => it.value === before.value);
      if (fits) input.value = before.value;
    }
    $(FIRST.has(name) ? "fields" : "options").append(made);
  }
  const minutes = model.typical_seconds && Math.round(model.typical_seconds / 60);
  $("model-hint").textContent = minutes ? `Usually takes about ${minutes} min.` : "";
  $("more").hidden = !$("options").childElementCount;
  showPrice();
}

// What it costs hangs on what is chosen, not on what is written or uploaded.
async function showPrice() {
  const chosenOnly = filled().filter(([name, value]) =>
    typeof value === "string" && $(`field-${name}`)?.tagName !== "TEXTAREA");
  const query = new URLSearchParams(chosenOnly).toString();
  priced = query;
  try {
    const { usd, balance } = await (await fetch(`/price?${query}`)).json();
    if (priced !== query || balance === undefined) return;
    const cost = usd === null ? "Its price is not known beforehand."
      : `Costs about ${dollars(usd)}.`;
    $("price").textContent = `${cost} You have ${dollars(balance)}.`;
  } catch {
    $("price").textContent = "Its price is not known now.";
  }
}

function showModels() {
  const fitting = catalogue.filter((model) => model.kind === $("kind").value);
  // The newest come last in the catalogue, and first here.
  $("model").replaceChildren(...fitting.reverse().map((model) => option(model.id)));
  showFields();
}

async function openForm() {
  catalogue = await (await fetch("/models")).json();
  const kinds = [...new Set(catalogue.map((model) => model.kind))];
  $("kind").replaceChildren(...kinds.map((kind) => option(kind, KINDS[kind] ?? kind)));
  showModels();
}

// The fields that hold something.
function filled() {
  return [...new FormData($("form"))].filter(([, value]) =>
    value !== "" && !(value instanceof File && !value.name));
}

function clearProblems() {
  for (const place of document.querySelectorAll("form .trouble")) place.textContent = "";
  for (const input of document.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
  }
}

function showProblems(problems) {
  for (const { field, text } of problems) {
    const input = $(`field-${field}`);
    const place = $(`problem-${field}`) || $("trouble");
    place.textContent = text;
    input?.setAttribute("aria-invalid", "true");
    if (input?.closest("details")) $("more").open = true;
  }
  const first = document.querySelector("[aria-invalid]");
  if (first) first.focus();
  else $("send").focus();
}

function tell(message) {
  $("trouble").textContent = message;
}

async function send(event) {
  event.preventDefault();
  clearProblems();
  const form = new FormData();
  for (const [name, value] of filled()) form.append(name, value);
  const prompt = form.get("prompt") || form.get("multi_prompt")
    || form.get("effect_scene") || "No words";
  const video = { request: crypto.randomUUID(), since: Date.now(), prompt,
    model: form.get("model"), id: null, posted: null };
  $("send").disabled = true;
  try {
    await keepForm(video, form);
    keep(video);
  } catch {
    tell("This browser stores nothing for this page, so a video could get lost. "
      + "Nothing was sent.");
    $("send").disabled = false;
    return;
  }
  $("news").textContent = `Sent: ${prompt}`;
  try {
    await pursue(video, makeCard(video));
  } finally {
    $("send").disabled = false;
    showPrice();
  }
}

// ---- The videos, as this browser keeps them
//
// A request has an id that is drawn and stored here before it is sent. Its answer
// brings the id of the video. As long as that is missing, the server is asked what
// became of the request, and only if that says "unsent" it is sent again.

const KEPT = "kling-videos";
const STILL_WANTED = 10 * 60 * 1000; // ms: what is older waits for a click
const PAUSE = 2000; // ms between two questions

const TRACEABLE = 90 * 24 * 3600 * 1000; // ms: how far the vendor's log goes back

function isVideo(it) {
  if (typeof it !== "object" || it === null) return false;
  const isPlain = (text) => typeof text === "string" && /^[!-~]{8,300}$/.test(text);
  return typeof it.prompt === "string" && Number.isFinite(it.since)
    && (isPlain(it.id) || (isPlain(it.request) && Date.now() - it.since < TRACEABLE));
}

function kept() {
  try {
    const videos = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(videos) ? videos.filter(isVideo) : [];
  } catch {
    return []; // not what this page wrote
  }
}

const keyOf = (video) => video.request ?? video.id;
const found = (video) => kept().find((it) => keyOf(it) === keyOf(video));

function keep(video) {
  const videos = kept();
  const place = videos.findIndex((it) => keyOf(it) === keyOf(video));
  videos.splice(place < 0 ? videos.length : place, 1, video);
  localStorage.setItem(KEPT, JSON.stringify(videos));
}

function drop(video) {
  const others = kept().filter((it) => keyOf(it) !== keyOf(video));
  localStorage.setItem(KEPT, JSON.stringify(others));
  dropForm(video);
}

// What was filled in, files too: it outlives a reload until the answer is there.
const placeOf = (video) => `/unsent/${video.request}`;
const unsent = () => caches.open("kling-unsent");

async function keepForm(video, form) {
  await (await unsent()).put(placeOf(video), new Response(form));
}

async function keptForm(video) {
  return (await (await unsent()).match(placeOf(video)))?.formData();
}

async function dropForm(video) {
  if (video.request) await (await unsent()).delete(placeOf(video));
}

// ---- From a request to a video

// Go on with a request until the id of its video is there, or it is sure that there
// is none. One tab at a time; the others then find what the first one stored.
function pursue(video, card) {
  return navigator.locks.request(placeOf(video), async () => {
    for (;;) {
      const now = found(video);
      if (!now) return discard(card);
      if (now.id) return follow(now, card);
      const answer = now.posted ? await ask(now) : await post(now);
      if (!found(video)) continue; // removed meanwhile
      if (answer.id) {
        keep({ ...now, id: answer.id });
        dropForm(now);
      } else if (answer.outcome === "refused") {
        drop(now);
        tell(answer.message);
        showProblems(answer.problems ?? []);
      } else if (answer.outcome === "unsent") {
        keep({ ...now, posted: null });
        if (Date.now() - now.since > STILL_WANTED) return offer(now, card);
      } else {
        showLine(card, "looking", "Finding out whether it has started …");
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    }
  });
}

async function post(video) {
  const body = await keptForm(video);
  if (!body) return { outcome: "refused", message: "It was not sent. Fill it in again." };
  keep({ ...video, posted: Date.now() });
  return answerOf("/videos", { method: "POST", body,
    headers: { "x-client-request-id": video.request } });
}

function ask(video) {
  const age = Math.max(0, Date.now() - video.posted) / 1000;
  return answerOf(`/requests/${video.request}?age=${age}`);
}

// Anything but a clear answer of the app's own leaves open what became of it.
async function answerOf(url, options) {
  try {
    const told = await (await fetch(url, options)).json();
    return typeof told.id === "string" || told.outcome ? told : {};
  } catch {
    return {};
  }
}

function offer(video, card) {
  showLine(card, "not sent", "It was not sent, and nothing was charged.");
  const again = card.querySelector(".again");
  again.hidden = false;
  again.onclick = () => {
    again.hidden = true;
    keep({ ...video, since: Date.now() });
    pursue(video, card);
  };
}

// ---- The cards

function makeCard(video) {
  const card = $("video-card").content.firstElementChild.cloneNode(true);
  card.querySelector(".prompt").textContent = video.prompt;
  card.querySelector(".model").textContent = video.model ?? "";
  card.querySelector(".remove").onclick = () => remove(video, card);
  $("videos").prepend(card);
  $("none").hidden = true;
  const tick = () => {
    const seconds = Math.round((Date.now() - video.since) / 1000);
    card.querySelector(".time").textContent = `${seconds} s`;
  };
  card.clock = setInterval(tick, 250);
  return card;
}

function remove(video, card) {
  const now = found(video);
  const mayBePaid = now && !now.id && now.posted;
  if (mayBePaid && !confirm("It may have been started and charged. Remove it?")) return;
  drop(video);
  discard(card);
}

function discard(card) {
  stop(card);
  card.remove();
  $("none").hidden = kept().length > 0;
}

function stop(card) {
  card.events?.close();
  clearInterval(card.clock);
}

function follow(video, card) {
  showLine(card, "started", "");
  card.events = new EventSource(`/videos/${encodeURI(video.id)}/events`);
  card.events.addEventListener("status", ({ data }) => {
    const generation = JSON.parse(data);
    showStatus(card, video, generation);
    if (generation.is_terminal) stop(card);
  });
  card.events.addEventListener("trouble", ({ data }) => {
    showTrouble(card, "trouble", JSON.parse(data).message);
    stop(card);
  });
}

function showLine(card, status, message) {
  card.querySelector(".status").textContent = status;
  card.querySelector(".trouble").textContent = message;
}

function showStatus(card, video, generation) {
  showLine(card, generation.status, "");
  card.className = generation.succeeded ? "completed" : "";
  if (generation.is_terminal) {
    $("news").textContent = `${video.prompt}: ${generation.status}`;
  }
  if (generation.succeeded) {
    const player = element("video", { src: generation.video.url, controls: true,
      loop: true, muted: true, playsInline: true, autoplay: true });
    player.setAttribute("aria-label", video.prompt);
    card.querySelector(".screen").replaceChildren(player);
    showPrice();
  } else if (generation.is_terminal) {
    showTrouble(card, generation.status, generation.error || "It gave no reason.");
  }
}

function showTrouble(card, status, message) {
  card.className = "error";
  showLine(card, status, message);
}

$("kind").addEventListener("change", showModels);
$("model").addEventListener("change", showFields);
$("form").addEventListener("change", showPrice);
$("form").addEventListener("submit", send);
openForm();
for (const video of kept()) {
  const card = makeCard(video);
  if (video.id) follow(video, card);
  else pursue(video, card);
}
