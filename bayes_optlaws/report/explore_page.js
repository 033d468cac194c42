"use strict";
/* Sliders, numbers and the drawing. */

const OWN = ["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "cooldown", "floor"];
const covariate = (key) => COVARIATES[Number(key.slice(1))];
const EXTRA = COVARIATES.map((_, i) => "c" + i);
const LEVELS = EXTRA.filter((key) => covariate(key).levels.length);
const KEYS = [...OWN, ...EXTRA.filter((key) => !covariate(key).levels.length)];
const isExtra = (key) => EXTRA.includes(key);
const POSITIONS = 400;
let baseline = { ...LAW.baseline }, current = { ...LAW.baseline };
const el = (id) => document.getElementById(id);

function short(x) {
  if (x === 0) return "0";
  if (x >= 1e15) return x.toExponential(2); /* FLOP */
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (x >= unit) return Number((x / unit).toPrecision(3)) + name;
  return String(Number(x.toPrecision(3)));
}
function parse(text) {
  const found = /^\s*([+-]?[0-9.]+(?:e[+-]?[0-9]+)?)\s*([kMBTG%]?)\s*$/i.exec(text);
  if (!found) return NaN;
  const unit = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12, "%": 0.01 }[found[2].toLowerCase()];
  return Number(found[1]) * unit;
}
const isShare = (key) => key === "cooldown" || key === "floor";
const shown = (key, x) =>
  isShare(key) ? Number((100 * x).toPrecision(3)) + "%" : isExtra(key) ? String(Number(x.toPrecision(4))) : short(x);
function percent(p) {
  return p < 0.005 ? "under 1 %" : p > 0.995 ? "over 99 %" : (100 * p).toFixed(0) + " %";
}

const span = (low, high) => (low === high ? "" : low + " to " + high);

/* sliders are even in this; covariates as the law reads them */
const INVERSE = { linear: (x) => x, log: Math.exp, "log(1-x)": (x) => -Math.expm1(x) };
const scaleOf = (key) => (isShare(key) ? "linear" : isExtra(key) ? covariate(key).kind : "log");
function share(key, value) {
  const f = TRANSFORM[scaleOf(key)], [low, high] = LAW.ranges[key].map(f);
  return (f(value) - low) / (high - low || 1);
}
function toValue(key, position) {
  const name = scaleOf(key), [low, high] = LAW.ranges[key].map(TRANSFORM[name]);
  return INVERSE[name](low + (position / POSITIONS) * (high - low));
}
const toPosition = (key, value) => Math.round(POSITIONS * Math.min(Math.max(share(key, value), 0), 1));
const used = (key) =>
  key === "cooldown" ? current.schedule.startsWith("wsd") : key === "floor" ? current.schedule !== "constant" : true;

function row(c) {
  const s = schedule(c), out = { n_params: c.n_params, tokens: c.tokens, batch_tokens: c.batch_tokens,
    peak_lr: c.peak_lr, warmup_steps: s.warmup, schedule: c.schedule };
  if (c.schedule !== "constant") out.min_lr = s.low;
  if (c.schedule.startsWith("wsd")) out.cooldown_start_step = s.cooldown;
  for (const key of EXTRA) out[covariate(key).name] = c[key];
  return out;
}
const cell = (x) => {
  const text = typeof x === "number" ? String(Number(x.toPrecision(10))) : x;
  return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
};

function setText(id, text) { el(id).textContent = text; }

function refresh() {
  const a = answer(current, baseline), s = schedule(current);
  for (const key of KEYS) {
    const slider = el("s-" + key), on = used(key);
    slider.disabled = !on; el("v-" + key).disabled = !on;
    slider.value = toPosition(key, current[key]);
    slider.setAttribute("aria-valuetext", shown(key, current[key]));
    if (document.activeElement !== el("v-" + key)) el("v-" + key).value = shown(key, current[key]);
  }
  for (const key of ["schedule", ...LEVELS]) el("s-" + key).value = current[key];
  setText("loss", a.loss_mean.toFixed(4));
  setText("interval", a.loss_lower.toFixed(4) + " to " + a.loss_upper.toFixed(4));
  setText("risk", a.p_diverge === undefined ? "not modelled" : percent(a.p_diverge));
  setText("risk-interval", a.p_diverge === undefined ? "" : span(percent(a.p_diverge_lower), percent(a.p_diverge_upper)));
  const same = [...KEYS, ...LEVELS, "schedule"].every((k) => current[k] === baseline[k]);
  setText("better", same ? "it is the baseline" : percent(a.p_better));
  setText("gain", same ? "" : (a.gain >= 0 ? "lower by " : "higher by ") + Math.abs(a.gain).toFixed(4) + " nats, expected");
  setText("distance", a.extrapolation < 0.005 ? "a scale that was fitted" : a.extrapolation.toFixed(2) + " decades");
  setText("steps", short(s.steps) + " steps, " + short(6 * current.n_params * current.tokens) + " FLOP");
  const notes = [];
  if (s.warmup < current.warmup_steps) notes.push("The warm-up is cut to 95 % of the " + short(s.steps) + " steps.");
  if (a.extrapolation > 0.5) notes.push("More than half a decade from every scale that was fitted: read the interval, not the mean.");
  for (const key of KEYS.filter((k) => k in LAW.seen && k !== "n_params" && k !== "tokens")) {
    const [low, high] = LAW.seen[key], slack = 0.001 * Math.abs(current[key]);
    if (current[key] < low - slack || current[key] > high + slack)
      notes.push(LAW.labels[key] + " was " + shown(key, low) + (low === high ? "" : " to " + shown(key, high)) + " in the table.");
  }
  const other = EXTRA.find((key) => COVARIATES[key.slice(1)].group);
  if (other && current[other] !== baseline[other]) notes.push("Losses of different groups are not comparable.");
  if (!LAW.seen.schedule.includes(current.schedule)) notes.push("No run of the table has the schedule " + current.schedule + ".");
  setText("notes", notes.join(" "));
  const r = row(current);
  setText("row", Object.keys(r).map(cell).join(",") + "\n" + Object.values(r).map(cell).join(","));
  draw();
  el("state").textContent = JSON.stringify({ answer: a, row: r });
}

function draw() {
  const key = el("along").value, width = 640, height = 300, left = 64, right = 16, top = 14, bottom = 44;
  const n = 33, xs = [], ys = [];
  for (let i = 0; i < n; i++) {
    const value = toValue(key, (POSITIONS * i) / (n - 1));
    xs.push(value); ys.push(answer({ ...current, [key]: value }, null, 18));
  }
  const now = answer(current, null);
  const px = (x) => left + (width - left - right) * Math.min(Math.max(share(key, x), 0), 1);
  const floor = Math.min(...ys.map((y) => y.loss_lower), now.loss_lower);
  const ceil = Math.min(Math.max(...ys.map((y) => y.loss_upper), now.loss_upper), floor + 6 * Math.max(now.loss_mean - floor, 0.02 * floor));
  const py = (y) => top + (height - top - bottom) * (1 - Math.min(Math.max((y - floor) / (ceil - floor), -0.02), 1.02));
  const svg = el("chart"), NS = "http://www.w3.org/2000/svg";
  svg.replaceChildren();
  const add = (tag, attributes, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    svg.append(node); return node;
  };
  const points = (f) => xs.map((x, i) => px(x).toFixed(1) + "," + py(f(ys[i])).toFixed(1));
  add("polygon", { class: "band", points: [...points((y) => y.loss_upper), ...points((y) => y.loss_lower).reverse()].join(" ") });
  add("polyline", { class: "mean", points: points((y) => y.loss_mean).join(" ") });
  for (let k = 0; k <= 4; k++) {
    const y = floor + ((ceil - floor) * k) / 4;
    add("line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) });
    add("text", { x: left - 8, y: py(y) + 4, "text-anchor": "end" }, y.toFixed(3));
    const x = toValue(key, (POSITIONS * k) / 4);
    add("text", { x: px(x), y: height - bottom + 18, "text-anchor": k === 0 ? "start" : k === 4 ? "end" : "middle" }, shown(key, x));
  }
  add("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, LAW.labels[key]);
  add("line", { class: "now", x1: px(current[key]), x2: px(current[key]), y1: top, y2: height - bottom });
  add("circle", { class: "dot", cx: px(current[key]), cy: py(now.loss_mean), r: 5 });
  svg.setAttribute("aria-label", "Expected loss and interval along " + LAW.labels[key] + ", " + shown(key, current[key]) + " now: " + now.loss_mean.toFixed(3) + " nats");
}

let waiting = false;
function later() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => { waiting = false; refresh(); }, 0);
}

for (const key of KEYS) {
  el("s-" + key).addEventListener("input", (event) => {
    current[key] = toValue(key, Number(event.target.value)); later();
  });
  el("v-" + key).addEventListener("change", (event) => {
    const value = parse(event.target.value);
    const good = isShare(key) ? value >= 0 && value < 1 : Number.isFinite(value) && Number.isFinite(TRANSFORM[scaleOf(key)](value));
    event.target.setAttribute("aria-invalid", String(!good));
    if (good) current[key] = value;
    event.target.value = shown(key, current[key]);
    refresh();
  });
}
for (const key of ["schedule", ...LEVELS])
  el("s-" + key).addEventListener("change", (event) => { current[key] = event.target.value; later(); });
el("along").addEventListener("change", later);
el("reset").addEventListener("click", () => { current = { ...baseline }; refresh(); });
el("keep").addEventListener("click", () => { baseline = { ...current }; refresh(); });
refresh();
