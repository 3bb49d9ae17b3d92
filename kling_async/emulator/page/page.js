"use strict";

const $ = (id) => document.getElementById(id);
const generations = new Map(); // id -> what the server last told
const cards = new Map(); // id -> its list item
const ENDED = new Set(["completed", "error"]);

$("setup").textContent =
  `export AIMLAPI_BASE_URL=${location.origin}\nexport AIMLAPI_KEY=any-key`;

const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });

function promptOf(request) {
  if (request.prompt) return request.prompt;
  const shots = (request.multi_prompt || []).map((shot) => shot.prompt || shot);
  return shots.join(" / ") || request.effect_scene || "(no prompt)";
}

function newCard(id) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  card.querySelector(".id").textContent = id;
  cards.set(id, card);
  $("gallery").prepend(card);
  return card;
}

function showVideo(card, generation) {
  const screen = card.querySelector(".screen");
  if (!generation.video || screen.querySelector("video")) return;
  const video = document.createElement("video");
  Object.assign(video, { controls: true, loop: true, muted: true, playsInline: true });
  video.preload = "none"; // the server renders a video when it is first asked for
  video.setAttribute("aria-label", promptOf(generation.request));
  video.dataset.source = generation.video;
  screen.replaceChildren(video);
  onScreen.observe(video);
}

// What scrolls into view is fetched and plays; what leaves it pauses.
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const onScreen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) { target.pause(); continue; }
    if (!target.src) target.src = target.dataset.source;
    if (calm.matches) target.preload = "metadata";
    else target.play().catch(() => {});
  }
});

function show(id) {
  const generation = generations.get(id);
  const card = cards.get(id) || newCard(id);
  const put = (name, text) => { card.querySelector(name).textContent = text; };
  const status = card.querySelector(".status");
  status.textContent = generation.status;
  status.className = `status ${generation.status}`;
  card.classList.toggle("queued", generation.status === "queued");
  card.classList.toggle("failed", generation.status === "error");
  put(".prompt", promptOf(generation.request));
  put(".model", generation.model);
  put(".client", generation.client_request_id || "none");
  put(".created", new Date(generation.created).toLocaleString());
  put(".cost", dollars.format(generation.usd));
  put(".request", JSON.stringify(generation.request, null, 2));
  const ignored = generation.ignored.join(", ");
  put(".ignored", `Dropped, since the model does not take it: ${ignored}`);
  card.querySelector(".ignored").hidden = !ignored;
  put(".why", generation.error || "");
  card.querySelector(".why").hidden = !generation.error;
  showVideo(card, generation);
}

function showTimes() {
  for (const [id, generation] of generations) {
    const since = (Date.now() - Date.parse(generation.created)) / 1000;
    const seconds = generation.seconds ?? Math.max(0, since);
    cards.get(id).querySelector(".time").textContent = `${seconds.toFixed(1)} s`;
  }
}

function announce(id, before, generation) {
  if (!before || before.status === generation.status) return;
  $("news").textContent = `${promptOf(generation.request)}: ${generation.status}`;
}

function showCounts(account) {
  if (account) {
    $("balance").textContent = dollars.format(account.balance_usd);
    $("count").textContent = account.count;
  }
  const all = [...generations.values()];
  $("running").textContent = all.filter((it) => !ENDED.has(it.status)).length;
  $("failed").textContent = all.filter((it) => it.status === "error").length;
  $("empty").hidden = all.length > 0;
}

const events = new EventSource("/_emulator/events");
events.onopen = () => {
  // Each connection begins with everything; a restarted server knows nothing of before.
  generations.clear();
  cards.clear();
  $("gallery").replaceChildren();
  $("link").textContent = "live";
  $("link").className = "on";
};
events.onerror = () => { $("link").textContent = "lost"; $("link").className = "off"; };
events.onmessage = ({ data }) => {
  const { "": account, ...news } = JSON.parse(data);
  for (const [id, generation] of Object.entries(news)) {
    announce(id, generations.get(id), generation);
    generations.set(id, generation);
    show(id);
  }
  showCounts(account);
  showTimes();
};
setInterval(showTimes, 200);
