"use strict";
// Names in the data are anybody's: they become text nodes and attributes, never HTML.

const COLOURS = 8, POLL = 2000;
const TITLES = {
  lag_mean: "Lag, mean to largest (weight versions)", policy_loss: "Policy loss", value_loss: "Value loss", entropy: "Entropy (nats)",
  approx_kl: "KL, acting to learning policy (nats)", clip_fraction: "Share of rows clipped",
  explained_variance: "Explained variance", gradient_norm: "Gradient norm", learning_rate: "Learning rate",
  steps_per_s: "Steps per second", queue_depth: "Rollouts that wait", length_mean: "Episode length (steps)",
};
const NOT_DRAWN = new Set(["x", "return_x", "return", "low", "high", "lag_max"]);
const STAGES = { env: 0, "env wait": 6, act: 2, predict: 6, learn: 1, average: 3, delay: 4, "waiting for a turn": 4,
  "no free core": 5, unaccounted: 7 };  // colours; waiting is grey

const runs = new Map(), hidden = new Set(), plots = new Map();
let groups = [], chosen = "", last = 0, dark = matchMedia("(prefers-color-scheme: dark)");

const $ = id => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "colour") element.style.setProperty("--colour", value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  element.append(...children.filter(child => child != null));
  return element;
}

const colour = index => index == null ? "var(--wait)" : `var(--c${index % COLOURS})`;
const inks = new Map();  // what the variables are in this scheme: to ask for each line would take long

function drawn(variable) {
  if (!inks.has(variable)) inks.set(variable, getComputedStyle(document.documentElement).getPropertyValue(variable.slice(4, -1)).trim());
  return inks.get(variable);
}

// Data: an answer has what changed

function take(answer) {
  last = answer.now;
  for (const run of answer.runs) runs.set(run.id, run);
  const there = new Set(answer.ids);
  for (const id of runs.keys()) if (!there.has(id)) runs.delete(id);
  const bands = new Map(groups.map(group => [group.runs.join("\n"), group.bands]));
  groups = answer.groups.map(group => ({ ...group, bands: group.bands ?? bands.get(group.runs.join("\n")) ?? {} }));
  $("folder").textContent = answer.folder;
  $("status").textContent = answer.reading ? `reading ${answer.reading} of ${answer.ids.length} runs …`
    : SAVED ? `as of ${new Date(answer.now * 1000).toLocaleString()}` : `${answer.ids.length} runs, live`;
  if (chosen && runs.size && !runs.has(chosen) && !answer.reading) {
    notify(`${chosen} is no longer there.`);
    chosen = "";
  } else if (!runs.size) notify(`No runs under ${answer.folder} yet: they appear here as they begin.`);
  else if (!$("notice").textContent.endsWith("there.")) notify("");
  show();
}

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function poll() {
  let wait = POLL;
  try {
    const response = await fetch(`data?after=${last}`);
    if (!response.ok) throw new Error(response.statusText);
    const answer = await response.json();
    if (answer.runs.length || answer.ids.length !== runs.size || !last || answer.reading) take(answer);
    else { last = answer.now; $("status").textContent = `${runs.size} runs, live`; }
    if (answer.reading) wait = 50;
  } catch (error) {
    $("status").textContent = "troupe dashboard does not answer; trying again …";
  }
  setTimeout(poll, document.hidden ? 5 * POLL : wait);
}

// What is shown

const environments = () => [...new Set(groups.map(group => group.environment))];
const inEnvironment = () => groups.filter(group => group.environment === $("environment").value)
  .map((group, index) => ({ ...group, colour: colour(index), key: `${group.environment}\n${group.name}` }));
const shownGroups = () => inEnvironment().filter(group => !hidden.has(group.key));

function show() {
  const select = $("environment"), names = environments();
  if (select.dataset.names !== names.join("\n")) {
    const before = runs.get(chosen)?.environment ?? select.value;
    select.replaceChildren(...names.map(name => el("option", { value: name }, name || "unknown environment")));
    select.dataset.names = names.join("\n");
    select.value = names.includes(before) ? before : runs.get(newest())?.environment ?? names[0] ?? "";
    select.hidden = names.length < 2;
  }
  if (runs.get(chosen)?.environment !== select.value) chosen = newest(select.value);
  showList();
  showReturns();
  showRun(runs.get(chosen));
  showLearning();
  showSettings();
}

function newest(environment) {
  const those = [...runs.values()].filter(run => environment == null || run.environment === environment);
  const order = run => (run.state === "training" ? 1e12 : 0) + (run.words.wall ?? 0);
  return those.sort((a, b) => order(b) - order(a))[0]?.id ?? "";
}

function choose(id) {
  chosen = id;
  if (!SAVED) history.replaceState(null, "", "#" + encodeURIComponent(id));
  show();
}

function showList() {
  const list = $("list"), words = $("filter").value.toLowerCase(), focused = document.activeElement?.dataset.id;
  const top = list.scrollTop;
  list.replaceChildren(...inEnvironment().flatMap(group => {
    const those = group.runs.filter(id => (id + group.name).toLowerCase().includes(words));
    if (!those.length) return [];
    const box = el("input", { type: "checkbox", checked: !hidden.has(group.key), "data-id": "group " + group.key, onchange: () => {
      hidden.has(group.key) ? hidden.delete(group.key) : hidden.add(group.key);
      show();
    } });
    return [el("label", { class: "group" }, box, el("span", { class: "chip", colour: group.colour }), el("span", {}, group.name,
      el("small", {}, those.length > 1 ? `  ${those.length} runs` : ""))), ...those.map(id => listed(runs.get(id), group))];
  }));
  list.scrollTop = top;
  if (focused != null) [...list.querySelectorAll("[data-id]")].find(each => each.dataset.id === focused)?.focus({ preventScroll: true });
}

function listed(run, group) {
  const { words } = run;
  return el("button", { class: "run", type: "button", "data-id": run.id, colour: group.colour, "aria-pressed": String(run.id === chosen),
    onclick: () => choose(run.id) },
  el("b", {}, run.id), el("span", { class: `state ${run.state}` }, run.state),
  el("small", {}, words.steps ? `return ${words.return} · ${words.steps} steps` : "nothing reported yet"),
  el("small", {}, run.state === "training" ? `${words.speed ?? 0}/s` : words.time ?? ""),
  run.state === "training" ? el("progress", { max: 1, value: words.fraction ?? 0, "aria-label": words.progress }) : null);
}

function showReturns() {
  const single = runs.size === 1, shown = shownGroups(), averaged = shown.some(group => group.bands.steps);
  $("key").textContent = "Training return: mean of the episodes since the previous report, smoothed (moving mean over 10 % of the run). " + (averaged
    ? "Thick: the mean of a group of runs with its 95 % bootstrap interval; thin: each run; dashed: the chosen one, with its "
    : "Of the chosen run also its lowest to highest episodes (band), ") + "evaluations (◆), the final one (★; ☆ below the target), collapses (✕) and where it was resumed (upright).";
  for (const axis of ["steps", "seconds"]) {
    const series = [], resumed = [];
    for (const group of shown) for (const id of group.runs) {
      const run = runs.get(id), curve = run?.curves[axis], lead = id === chosen || single;
      if (!curve?.return) continue;
      const one = !group.bands[axis], line = { name: id, x: curve.return_x, y: curve.return, colour: group.colour };
      Object.assign(line, { width: lead ? 2.2 : one ? 1.5 : 0.8, alpha: lead || one ? 1 : 0.45, dash: lead && !one ? [7, 3] : null });
      if (lead && one) line.band = [curve.low, curve.high];
      series.push(line);
      if (lead) resumed.push(...run.events.filter(event => event.kind === "resume").map(event => event[axis]));
      const missed = event => event.kind === "final" && run.target != null && event.mean < run.target;
      if (lead) for (const [kind, mark] of [["evaluation", "◆"], ["final", "★"], ["final", "☆"], ["collapse", "✕"]]) {
        const events = run.events.filter(event => event.kind === kind && event.mean != null && missed(event) === (mark === "☆"))
          .sort((a, b) => a[axis] - b[axis]);
        if (events.length) series.push({ name: `${id}: ${kind === "final" ? "final evaluation" : kind}`, mark, colour: "var(--ink)",
          x: events.map(event => event[axis]), y: events.map(event => event.mean) });
      }
    }
    for (const group of shown) if (group.bands[axis]) {
      const { x, mean, low, high } = group.bands[axis];
      series.push({ name: `${group.name}: mean of ${group.runs.length} runs`, x, y: mean, band: [low, high], colour: group.colour, width: 2.6, alpha: 1 });
    }
    const targets = [...new Set(shown.flatMap(group => group.runs.map(id => runs.get(id)?.target)).filter(target => target != null))];
    plot($("returns"), axis, axis === "steps" ? "against environment steps" : "against seconds of training", axis, 280).draw(series, targets, resumed);
  }
}

function showLearning() {
  const shown = shownGroups(), present = new Set(Object.keys(TITLES));
  for (const group of shown) for (const id of group.runs) for (const name of Object.keys(runs.get(id)?.curves.steps ?? {}))
    if (!NOT_DRAWN.has(name)) present.add(name);
  for (const name of present) {
    const series = [];
    for (const group of shown) for (const id of group.runs) {
      const curve = runs.get(id)?.curves.steps, lead = id === chosen;
      if (!curve?.[name]?.length) continue;
      const line = { name: id, x: curve.x, y: curve[name], colour: group.colour, width: lead ? 2.2 : 1, alpha: lead || !chosen ? 1 : 0.6 };
      if (lead && name === "lag_mean") line.band = [curve.lag_mean, curve.lag_max];
      series.push(line);
    }
    plot($("learning"), "learning " + name, TITLES[name] ?? name, "steps", 170).draw(series, []);
  }
}

function showRun(run) {
  const section = $("run");
  section.hidden = !run;
  if (!run) return;
  if (section.dataset.id !== run.id) {
    section.dataset.id = run.id;
    section.replaceChildren(el("div", { id: "about" }), el("div", { class: "columns" },
      el("div", { id: "parts" }), el("div", {}, el("div", { id: "media" }), el("h3", { class: "hint" }, "Log"),
        el("ol", { class: "log", id: "log", tabindex: 0, "aria-label": "log" }))), el("div", { id: "error" }));
  }
  const { words } = run, about = [run.environment, run.preset && `preset ${run.preset}`, run.seed && `seed ${run.seed}`];
  const figures = [["training return, latest 100 episodes", words.return], ["best evaluation", words.best], ["target", run.target], ["steps", words.steps],
    ["training time", words.time], ["steps per second", words.speed], ["lag, mean (largest)", words.lag && `${words.lag} (${words.lag_max})`],
    ["rollouts that wait", words.queue], ["last report", words.wall && new Date(words.wall * 1000).toLocaleTimeString()]];
  $("about").replaceChildren(el("div", { class: "title" }, el("h2", {}, run.id), el("span", { class: `state ${run.state}` }, run.state),
    el("span", { class: "hint" }, about.filter(Boolean).join(" · "))));
  if (run.state === "training") $("about").append(el("progress", { max: 1, value: words.fraction ?? 0, "aria-label": "progress" }),
    el("p", { class: "hint" }, [words.progress, words.left].filter(Boolean).join(", ")));
  $("parts").replaceChildren(...words.limits ? [el("p", { class: "limits" }, words.limits)] : [],
    el("dl", {}, ...figures.filter(([, value]) => value != null && value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))))),
    ...Object.entries(run.shares).map(([part, stages]) => shares(part, stages)));
  const media = JSON.stringify(run.media);
  if ($("media").dataset.media !== media) {
    $("media").dataset.media = media;
    $("media").replaceChildren(...run.media.slice(0, 2).map(shownVideo));
  }
  const log = run.events.slice().reverse().map(event => el("li", {}, el("time", {}, `${compact(event.steps)} steps, ${event.seconds.toFixed(1)} s`), event.words));
  $("log").replaceChildren(...log.length ? log : [el("li", {}, "no evaluation yet")]);
  $("error").replaceChildren(...run.error ? [el("h3", { class: "hint" }, "error.txt"), el("pre", { tabindex: 0 }, run.error)] : []);
}

function shares(part, stages) {
  const entries = Object.entries(stages);
  return el("div", { class: "part" }, `time of ${part === "learner" ? "the learner" : `the ${part}s`}`,
    el("div", { class: "bar" }, ...entries.map(([stage, share]) => {
      const piece = el("span", { colour: colour(STAGES[stage]), title: `${stage} ${Math.round(100 * share)} %` });
      piece.style.width = `${100 * share}%`;
      return piece;
    })),
    el("div", { class: "stages" }, ...entries.map(([stage, share]) => el("span", {}, el("span", { class: "chip", colour: colour(STAGES[stage]) }),
      `${stage} ${Math.round(100 * share)} %`))));
}

function shownVideo({ name, url, note }) {
  const caption = el("figcaption", {}, note ? `${name}: ${note}` : name);
  if (!url) return el("figure", {}, caption);
  const source = url.startsWith("data:") ? url : url.split("/").map(encodeURIComponent).join("/");
  if (name.toLowerCase().endsWith(".gif")) return el("figure", {}, el("img", { src: source, alt: name }), caption);
  const video = el("video", { src: source, controls: true, loop: true, playsinline: true, autoplay: true, preload: "metadata", "aria-label": name });
  video.muted = true;  // browsers start no others by themselves
  return el("figure", {}, video, caption);
}

function showSettings() {
  const shown = shownGroups(), columns = shown.map(group => runs.get(group.runs[0])?.settings ?? {});
  const names = [...new Set(columns.flatMap(Object.keys))].filter(name => name !== "seed");
  const differ = name => columns.some(settings => settings[name] !== columns[0][name]);
  const rows = names.filter(name => $("all").checked || columns.length < 2 || differ(name));
  const key = JSON.stringify([shown.map(group => group.key), rows, columns]);
  if ($("settings").dataset.key === key) return;
  $("settings").dataset.key = key;
  $("settings").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", {}, "setting"), ...shown.map(group => el("th", {}, el("span", { class: "chip", colour: group.colour }), group.name)))),
    el("tbody", {}, ...rows.length ? rows.map(name => el("tr", {}, el("th", { scope: "row" }, name), ...columns.map(settings =>
      el("td", { class: differ(name) ? "other" : "" }, settings[name] ?? "–")))) : [el("tr", {}, el("td", {}, "all the same"))]));
}
// Start

try { chosen = decodeURIComponent(location.hash.slice(1)); } catch { /* a hash that is none of ours */ }
const SAVED = $("data").textContent ? JSON.parse($("data").textContent) : null;
dark.addEventListener("change", () => { inks.clear(); show(); });
for (const id of ["environment", "all"]) $(id).addEventListener("change", show);
$("filter").addEventListener("input", showList);
document.addEventListener("keydown", event => {
  if (event.key === "/" && document.activeElement !== $("filter")) { event.preventDefault(); $("filter").focus(); }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], buttons = [...$("list").querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  if (step && at >= 0) { event.preventDefault(); buttons[at + step]?.focus(); }
});
if (SAVED) { document.body.classList.add("single"); take(SAVED); } else poll();
