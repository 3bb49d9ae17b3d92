// Sends what n8n's node n8n-nodes-aimlapi does for a video: its fields, its loop.
const [url] = process.argv.slice(2);
const headers = { authorization: "Bearer any-key", "content-type": "application/json" };
const body = {
  model: "klingai/v2-master-text-to-video",
  prompt: "A paper boat.",
  duration: "5",
  type: "multi-image-to-video",
  external_task_id: "from-n8n",
};
const path = `${url}/v2/generate/video/kling/generation`;
const created = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
let job = await created.json();
const { id } = job;
const seen = [job.status];
while (job.status !== "completed" && job.status !== "error") {
  await new Promise((then) => setTimeout(then, 100));
  const asked = new URL(path);
  asked.searchParams.set("generation_id", id);
  job = await (await fetch(asked, { headers })).json();
  seen.push(job.status);
}
const film = await fetch(job.video.url);
const bytes = (await film.arrayBuffer()).byteLength;
console.log(JSON.stringify({ status: created.status, seen, bytes }));
