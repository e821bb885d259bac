// The page of `babyllama play`. Text is only ever put in with textContent: nothing that a model or a person writes
// can become a part of the page.
"use strict";

const $ = (id) => document.getElementById(id);
const FULL = 15; // bits from which a piece has the full colour
const SLIDERS = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"];
let mode = "write";
let running = []; // one AbortController for each text that is being written or scored

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Settings

function settings() {
  const found = { stop: $("stop").value.split("\n").filter((line) => line) };
  for (const name of [...SLIDERS, "max_new_tokens", "seed"]) found[name] = Number($(name).value);
  return found;
}

function showValue(name) {
  const input = $(name);
  const off = { top_k: ["0", "all"], top_p: ["1", "all"], min_p: ["0", "off"], repetition_penalty: ["1", "off"], temperature: ["0", "greedy"] };
  input.parentElement.querySelector("output").textContent = input.value === off[name][0] ? off[name][1] : input.value;
}

// Requests

async function ask(path, body, signal) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      yield { name: lines[0].slice(7), data: JSON.parse(lines[1].slice(6)) };
    }
  }
}

function busy(now) {
  $("stop-button").disabled = !now;
  $("go").disabled = now;
}

function say(run, text, wrong) {
  const status = run.querySelector(".status");
  status.textContent = text;
  status.classList.toggle("error", Boolean(wrong));
}

async function eachRun(panel, work) {
  if (running.length) return;
  const runs = [...document.querySelectorAll(`#${panel} .run`)];
  running = runs.map(() => new AbortController());
  busy(true);
  await Promise.all(runs.map(async (run, number) => {
    run.classList.add("busy");
    try {
      await work(run, running[number].signal);
    } catch (error) {
      if (error.name === "AbortError") say(run, `stopped${run.dataset.tokens ? ` after ${run.dataset.tokens} tokens` : ""}`);
      else say(run, error instanceof TypeError ? "no answer: is the command still running?" : error.message, true);
    }
    run.classList.remove("busy");
  }));
  running = [];
  busy(false);
}

// Writing

async function write() {
  const prompt = $("prompt").value;
  const chosen = settings();
  await eachRun("write", async (run, signal) => {
    const given = run.querySelector(".given"), written = run.querySelector(".written"), text = run.querySelector(".text");
    given.textContent = prompt;
    written.textContent = "";
    run.dataset.tokens = "";
    run.querySelectorAll(".foot button").forEach((button) => { button.hidden = true; });
    say(run, "…");
    const started = performance.now();
    try {
      const body = { run: Number(run.dataset.run), prompt, settings: chosen };
      for await (const { name, data } of events(await ask("write", body, signal))) {
        if (name === "error") throw new Error(data.error);
        if (name === "text") {
          const follow = text.scrollTop + text.clientHeight > text.scrollHeight - 40;
          written.append(data.text);
          run.dataset.tokens = data.tokens;
          const seconds = (performance.now() - started) / 1000;
          say(run, `${data.tokens} tokens, ${(data.tokens / seconds).toFixed(0)} a second`);
          if (follow) text.scrollTop = text.scrollHeight;
        } else {
          say(run, `${data.tokens} tokens, ${(data.tokens / data.seconds).toFixed(0)} a second; ended: ${data.reason}`);
        }
      }
    } finally {
      run.querySelectorAll(".foot button").forEach((button) => { button.hidden = false; });
    }
  });
}

// Surprisal

let held = null; // the piece whose facts are shown

async function colour() {
  const text = $("prompt").value;
  hideTip();
  await eachRun("colour", async (run, signal) => {
    const box = run.querySelector(".pieces");
    box.replaceChildren();
    say(run, "…");
    const found = await (await ask("surprisal", { run: Number(run.dataset.run), text }, signal)).json();
    for (const piece of found.pieces) {
      const shown = element("span", piece.tokens.length ? "piece" : "", piece.text);
      if (piece.tokens.length) {
        shown.style.setProperty("--heat", (0.85 * Math.min(piece.bits, FULL) / FULL).toFixed(3));
        shown.facts = piece;
      }
      box.append(shown);
    }
    const rate = found.bytes ? `, ${(found.bits / found.bytes).toFixed(3)} bits per byte` : "";
    say(run, `${found.tokens} tokens, ${found.bits.toFixed(1)} bits${rate}`);
  });
}

const blank = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
const percent = (share) => (share >= 0.1 ? (100 * share).toFixed(0) : share >= 0.001 ? (100 * share).toFixed(1) : "<0.1") + "%";

function showTip(piece) {
  const tip = $("tip");
  if (held) held.classList.remove("at");
  held = piece;
  piece.classList.add("at");
  tip.replaceChildren();
  for (const token of piece.facts.tokens) {
    const head = element("div", "head");
    head.append(element("b", "", blank(token.text)), element("span", "", `${token.bits.toFixed(2)} bits`));
    tip.append(head, element("div", "sub", `rank ${token.rank.toLocaleString("en")}, probability ${percent(2 ** -token.bits)}`));
    const table = element("table");
    for (const [text, share] of token.likeliest) {
      const row = element("tr", text === token.text ? "own" : "");
      const bar = element("span", "bar");
      bar.style.width = `${100 * share}%`;
      const cell = element("td");
      cell.append(bar);
      row.append(element("td", "", blank(text)), cell, element("td", "", percent(share)));
      table.append(row);
    }
    tip.append(table);
  }
  tip.hidden = false;
  const at = piece.getClientRects()[0] || piece.getBoundingClientRect();
  const below = at.bottom + 8 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - tip.offsetHeight - 8)}px`;
}

function hideTip() {
  $("tip").hidden = true;
  if (held) held.classList.remove("at");
  held = null;
}

function walk(box, step) {
  const pieces = [...box.querySelectorAll(".piece")];
  const next = pieces[Math.max(0, Math.min(pieces.length - 1, held ? pieces.indexOf(held) + step : 0))];
  if (next) { next.scrollIntoView({ block: "nearest" }); showTip(next); }
}

// The page

function choose(name) {
  mode = name;
  for (const other of ["write", "colour"]) {
    $(other).hidden = other !== name;
    $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
  }
  $("go").textContent = name === "write" ? "Write" : "Colour";
  $("prompt-label").textContent = name === "write" ? "Prompt" : "Text";
  hideTip();
}

const go = () => (mode === "write" ? write() : colour());
const stop = () => running.forEach((controller) => controller.abort());

document.addEventListener("DOMContentLoaded", () => {
  for (const name of SLIDERS) {
    showValue(name);
    $(name).addEventListener("input", () => showValue(name));
  }
  if (innerWidth <= 600) document.querySelector(".settings").open = false;
  $("tab-write").addEventListener("click", () => choose("write"));
  $("tab-colour").addEventListener("click", () => choose("colour"));
  $("go").addEventListener("click", go);
  $("stop-button").addEventListener("click", stop);
  $("next-seed").addEventListener("click", (event) => { event.preventDefault(); $("seed").value = Number($("seed").value) + 1; });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); go(); }
    if (event.key === "Escape") { stop(); hideTip(); }
  });
  for (const run of document.querySelectorAll("#write .run")) {
    const whole = () => run.querySelector(".given").textContent + run.querySelector(".written").textContent;
    run.querySelector(".more").addEventListener("click", () => { $("prompt").value = whole(); write(); });
    run.querySelector(".show").addEventListener("click", () => { $("prompt").value = whole(); choose("colour"); colour(); });
  }
  for (const box of document.querySelectorAll(".pieces")) {
    box.addEventListener("pointerover", (event) => { if (event.target.facts) showTip(event.target); });
    box.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTip(); });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); walk(box, step); }
    });
  }
  addEventListener("scroll", hideTip, { passive: true });
  $("prompt").focus();
});
