// All text comes in as text: nothing here makes HTML out of a string, and the page's policy would not let it.
"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (name) e.className = name;
  return e;
};
const say = (text) => { $("status").textContent = text; };
let key = sessionStorage.getItem("key");
let lines = [];
let shown = "";

const headers = () => ({ "content-type": "application/json", authorization: `Bearer ${key}` });

async function login() {
  const token = location.hash.slice(1);
  history.replaceState(null, "", "/");
  if (!token) return;
  const reply = await fetch("/login", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token }) });
  if (!reply.ok) { if (!key) say(await reply.text()); return; }
  key = (await reply.json()).key;
  sessionStorage.setItem("key", key);
}

async function post(path, body, not) {
  try {
    const reply = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body) });
    if (!reply.ok) return say(await reply.text());
    const answer = await reply.json();
    say(answer.done ?? `${not}: ${answer.refused}`);
  } catch (e) { say(`bottle web does not answer (${e.message})`); }
}

function decide(p, verdict) {
  say(`deciding ${p.bottle}/${p.id} …`);
  return post("/decide", { bottle: p.bottle, id: p.id, verdict }, "not decided");
}

async function stop(b) {
  const name = await ask(null, `Stop ${b.name}?`, `type its name: ${b.name}`);
  if (name !== b.name) return say("nothing is stopped");
  say(`stopping ${b.name} …`);
  return post("/stop", { bottle: b.name }, "not stopped");
}

// Asks for a line of text; null when the operator does not want to go on.
function ask(p, title, label) {
  $("ask-title").textContent = title;
  $("ask-lines").replaceChildren(...(p ? diff(p) : []));
  $("ask-label").textContent = label;
  const text = $("ask-text"), dialog = $("ask");
  text.value = "";
  return new Promise((done) => {
    const end = (value) => { dialog.close(); done(value); };
    $("ask-yes").onclick = () => end(text.value);
    $("ask-no").onclick = () => end(null);
    dialog.oncancel = () => done(null);
    text.onkeydown = (e) => { if (e.key === "Enter") { e.preventDefault(); end(text.value); } };
    dialog.showModal();
    text.focus();
  });
}

// Asks for less than was asked; null as above. Whether it is less is the orchestrator's business.
function narrow(p) {
  const dialog = $("edit"), fields = { host: $("edit-host"), methods: $("edit-methods"), paths: $("edit-paths") };
  $("edit-title").textContent = `Narrow ${p.bottle}/${p.id}`;
  $("edit-lines").replaceChildren(...diff(p));
  fields.host.value = p.route.host;
  fields.methods.value = p.route.methods.join(" ");
  fields.paths.value = p.route.paths.join(" ");
  const words = (field) => field.value.split(/[\s,]+/).filter((w) => w);
  return new Promise((done) => {
    const end = (value) => { dialog.close(); done(value); };
    $("edit-yes").onclick = () => end({ ...p.route, host: fields.host.value.trim(), methods: words(fields.methods), paths: words(fields.paths) });
    $("edit-no").onclick = () => end(null);
    dialog.oncancel = () => done(null);
    dialog.showModal();
    fields.host.focus();
  });
}

async function approveLess(p) {
  const route = await narrow(p);
  if (route === null) return say("nothing is decided");
  return approve(p.host ? { ...p, host: route.host } : p, "launch", route);
}

async function approve(p, scope, narrowed) {
  const verdict = { against: p.against, scope, route: narrowed ?? null, typed: null, answer: null };
  if (p.choices) {
    const text = await ask(p, `Answer ${p.bottle}/${p.id}`, p.choices.length ? "the number of a choice, or text" : "your answer");
    if (text === null) return say("nothing is decided");
    verdict.answer = p.choices[Number(text) - 1] ?? text;
  } else if (p.host) {
    verdict.typed = await ask(p, `${p.bottle}/${p.id} is WIDE`, `to approve it, type its host: ${p.host}`);
    if (verdict.typed === null) return say("nothing is decided");
  }
  return decide(p, { approve: verdict });
}

async function deny(p) {
  const reason = await ask(p, `Deny ${p.bottle}/${p.id}`, "why, for the agent (may be empty)");
  if (reason === null) return say("nothing is decided");
  return decide(p, { deny: { reason: reason || null } });
}

const diff = (p) => p.lines.map(([tone, text]) => make("div", text, tone));

function proposal(p) {
  const article = make("article", undefined, p.host && p.open ? "wide" : "");
  article.dataset.id = `${p.bottle}/${p.id}`;
  article.append(make("h3", `${p.bottle}/${p.id} · ${p.state} · ${p.summary}`));
  const pre = make("pre");
  pre.append(...diff(p));
  article.append(pre);
  if (!p.open) return article;
  const button = (text, act, name) => {
    const b = make("button", text, name);
    b.type = "button";
    b.setAttribute("aria-label", `${text}: ${p.bottle}/${p.id}, ${p.summary}`);
    b.onclick = act;
    article.append(b);
  };
  if (p.choices) button("Answer", () => approve(p, "launch"), "approve");
  else if (p.save_only) button("Approve for the next launch", () => approve(p, "save"), "approve");
  else {
    button("Approve", () => approve(p, "launch"), "approve");
    if (p.once) button("Once", () => approve(p, "once"), "once");
    button("1 hour", () => approve(p, { for: 3600 }), "hour");
    button("And save", () => approve(p, "save"), "save");
  }
  if (p.route) button("Narrow…", () => approveLess(p), "narrow");
  button("Deny", () => deny(p), "deny");
  return article;
}

const age = (ms) => { const s = Math.max(0, (Date.now() - ms) / 1000); return s < 60 ? `${s | 0}s` : s < 3600 ? `${(s / 60) | 0}m` : `${(s / 3600) | 0}h`; };

let rowsShown = "";

function bottles(all) {
  const text = JSON.stringify(all); // so that a button keeps its focus
  if (text === rowsShown) return;
  rowsShown = text;
  const rows = all.map((b) => {
    const row = make("tr");
    row.append(...[b.name, b.state, b.engine, age(b.started_ms), `${b.cpu}%`, b.memory ? `${Math.round(b.memory / 1048576)} MiB` : "–"].map((t) => make("td", t)));
    const alive = !["exited", "crashed"].includes(b.state), cell = make("td");
    row.append(make("td", alive ? `bottle exec ${b.name} -- bash` : ""), cell);
    if (alive) {
      const button = make("button", "Stop", "stop");
      button.type = "button";
      button.setAttribute("aria-label", `Stop ${b.name}`);
      button.onclick = () => stop(b);
      cell.append(button);
    }
    return row;
  });
  $("bottles").replaceChildren(...rows);
}

function state(now) {
  bottles(now.bottles);
  const text = JSON.stringify(now.proposals);
  if (text !== shown) { // so that a button keeps its focus
    shown = text;
    $("proposals").replaceChildren(...(now.proposals.length ? now.proposals.map(proposal) : [make("p", "nobody asks for anything")]));
  }
  const open = now.proposals.filter((p) => p.open).length;
  document.title = open ? `(${open}) bot-bottle` : "bot-bottle";
}

function log() {
  const filter = $("filter").value.toLowerCase(), box = $("log");
  const end = box.scrollTop + box.clientHeight >= box.scrollHeight - 20;
  const some = lines.filter((l) => !filter || `${l.bottle} ${l.text}`.toLowerCase().includes(filter));
  box.textContent = some.slice(-1000).map((l) => `${l.bottle.padEnd(10)} ${l.text}`).join("\n");
  if (end) box.scrollTop = box.scrollHeight;
}

async function events() {
  const reply = await fetch("/events", { headers: headers() });
  if (!reply.ok) { say(await reply.text()); return reply.status !== 401; }
  say("connected");
  lines = [];
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return true;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = /^event: (\w+)\ndata: (.*)$/s.exec(part) ?? [];
      if (name === "state") state(JSON.parse(data) ?? { bottles: [], proposals: [] });
      if (name === "lines") { lines = lines.concat(JSON.parse(data)).slice(-10000); log(); }
    }
  }
}

$("filter").oninput = log;
(async () => {
  await login();
  if (!key) return say($("status").textContent === "connecting …" ? "open the URL that `bottle web` printed" : $("status").textContent);
  for (;;) {
    try { if (!(await events())) return; } catch (e) { console.warn(e); /* it is gone; it may come back */ }
    say("bottle web does not answer; trying again");
    await new Promise((r) => setTimeout(r, 2000));
  }
})();
