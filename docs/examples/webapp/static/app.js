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

async function send(event) {
  event.preventDefault();
  clearProblems();
  const form = new FormData($("form"));
  for (const [name, value] of [...form]) {
    if (value === "" || (value instanceof File && !value.name)) form.delete(name);
  }
  $("send").disabled = true;
  try {
    const answer = await fetch("/videos", { method: "POST", body: form });
    const told = await answer.json();
    if (answer.ok) begin(told.id, form);
    else if (told.problems) showProblems(told.problems);
    else $("trouble").textContent = told.message || told.detail || "That did not work.";
  } catch {
    $("trouble").textContent = "The server cannot be reached. Nothing is lost: try again.";
  } finally {
    $("send").disabled = false;
  }
}

// ---- The videos: the ids are kept in this browser, and an id is enough

const KEPT = "kling-videos";
const kept = () => JSON.parse(localStorage.getItem(KEPT) || "[]");
const keep = (videos) => localStorage.setItem(KEPT, JSON.stringify(videos));

function begin(id, form) {
  const shots = form.get("multi_prompt");
  const prompt = form.get("prompt") || shots || form.get("effect_scene") || "No words";
  const video = { id, prompt, model: form.get("model"), since: Date.now() };
  keep([...kept(), video]);
  follow(video);
  $("news").textContent = `Started: ${prompt}`;
}

function follow(video) {
  const card = $("video-card").content.firstElementChild.cloneNode(true);
  card.dataset.id = video.id;
  card.querySelector(".prompt").textContent = video.prompt;
  card.querySelector(".model").textContent = video.model;
  $("videos").prepend(card);
  $("none").hidden = true;
  const events = new EventSource(`/videos/${encodeURI(video.id)}/events`);
  const clock = setInterval(() => {
    const seconds = Math.round((Date.now() - video.since) / 1000);
    card.querySelector(".time").textContent = `${seconds} s`;
  }, 250);
  const stop = () => { events.close(); clearInterval(clock); };
  events.addEventListener("status", ({ data }) => {
    const generation = JSON.parse(data);
    showStatus(card, video, generation);
    if (generation.is_terminal) stop();
  });
  events.addEventListener("trouble", ({ data }) => {
    showTrouble(card, JSON.parse(data).message);
    stop();
  });
  card.querySelector(".remove").addEventListener("click", () => {
    stop();
    card.remove();
    keep(kept().filter((it) => it.id !== video.id));
    $("none").hidden = kept().length > 0;
  });
}

function showStatus(card, video, generation) {
  card.querySelector(".status").textContent = generation.status;
  card.className = generation.succeeded ? "completed" : "";
  if (generation.is_terminal) {
    $("news").textContent = `${video.prompt}: ${generation.status}`;
  }
  if (generation.succeeded) {
    const player = element("video", { src: generation.video.url, controls: true,
      loop: true, muted: true, playsInline: true, autoplay: true });
    player.setAttribute("aria-label", video.prompt);
    card.querySelector(".screen").replaceChildren(player);
  } else if (generation.is_terminal) {
    showTrouble(card, generation.error || "The server gave no reason.");
  }
}

function showTrouble(card, message) {
  card.className = "error";
  card.querySelector(".trouble").textContent = message;
}

$("kind").addEventListener("change", showModels);
$("model").addEventListener("change", showFields);
$("form").addEventListener("submit", send);
openForm();
kept().forEach(follow);
