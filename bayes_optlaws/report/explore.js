"use strict";
/* The law in the browser: the same formulas as bayes_optlaws.inference.predictor and
   bayes_optlaws.model.divergence, for one candidate and its baseline. Given a posterior draw the
   log loss is normal, so every number is an average over draws of a closed form: nothing is random,
   and nothing jumps when a slider is moved. */

const LAW = JSON.parse(document.getElementById("law").textContent);

function array(packed, Kind = Float64Array) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}
for (const group of [LAW.draws, LAW.local, LAW.divergence ? LAW.divergence.draws : {}, LAW.residuals])
  for (const name of Object.keys(group))
    group[name] = array(group[name], name === "e" ? Float32Array : Float64Array); /* e: all runs, all draws */

const S = LAW.n_draws, LN10 = Math.log(10);

/* ---- normal distribution ---- */
function phi(z) {
  /* upper tail by a continued fraction, centre by a series: errors below 1e-12 */
  const x = Math.abs(z);
  if (x > 38) return z > 0 ? 1 : 0;
  let tail;
  if (x < 3) {
    let term = x, sum = x;
    for (let k = 1; k < 120 && term > 1e-17 * sum; k++) { term *= (x * x) / (2 * k + 1); sum += term; }
    tail = 0.5 - (sum * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);
  } else {
    let f = x;
    for (let k = 60; k > 0; k--) f = x + k / f;
    tail = Math.exp(-0.5 * x * x) / (f * Math.sqrt(2 * Math.PI));
  }
  return z > 0 ? 1 - tail : tail;
}

/* ---- schedule ---- */
function schedule(c) {
  const steps = c.tokens / c.batch_tokens;
  const warmup = Math.min(c.warmup_steps, 0.95 * steps);
  const peak = c.peak_lr, flat = c.schedule === "constant";
  const low = flat ? peak : c.floor * peak;
  const wsd = c.schedule === "wsd" || c.schedule === "wsd-sqrt";
  const cooldown = flat ? steps : wsd ? Math.max(warmup, steps * (1 - c.cooldown)) : warmup;
  const a1 = Math.max(warmup, 1), a3 = Math.max(cooldown, a1);
  const length = steps - a3, cooling = !flat && length > 0, safe = cooling ? length : 1;
  const drop = peak - low, root = c.schedule === "wsd-sqrt";
  const mean = low + drop * (root ? 1 / 3 : 0.5);
  const conv_warmup = 0.5 * peak * a1;
  const conv_cooldown = cooling ? peak * (a3 - a1) + mean * safe : peak * (steps - a1);
  const shape = c.schedule === "cosine" ? (Math.PI * Math.PI) / 8
    : root ? 1 + Math.log(Math.max(safe, 1)) / 4 : 1;
  return { steps, warmup, cooldown, low, conv_warmup, conv_cooldown,
    escape_warmup: (peak * peak) / a1,
    escape_cooldown: cooling ? (shape * drop * drop) / Math.max(safe, 1) : 0 };
}

/* ---- features ---- */
function bases(c, s) {
  const f = LAW.features, step = f.reference_batch / 1e9, unit = f.lr_unit;
  const n = c.n_params / 1e9, lr = c.peak_lr / unit, tokens = c.tokens / 1e9;
  const batch = c.batch_tokens / 1e9, data = f.data_is_tokens ? tokens : s.steps * step;
  const cw = (s.conv_warmup / unit) * step, cc = (s.conv_cooldown / unit) * step;
  const ew = s.escape_warmup / (unit * unit) / step, ec = s.escape_cooldown / (unit * unit) / step;
  return { "N": n, "S": data, "lr": lr, "1/Cw": 1 / cw, "1/Cc": 1 / cc, "N/C": n / (cw + cc),
    "1/(Cw Cc)": 1 / (cw * cc), "Ew": ew, "Ec": ec, "E/N": (ew + ec) / n, "Ew Ec": ew * ec,
    "Ew/Cw": ew / cw, "Ec/Cc": ec / cc, "N Ew/Cw": (n * ew) / cw, "N Ec/Cc": (n * ec) / cc,
    "N trend": Math.pow(n, -f.trend_power), "tokens trend": Math.pow(tokens, -f.trend_power),
    "N S": n * data, "tokens": tokens, "batch": batch, "lr/batch": lr / batch,
    "lr/sqrt(batch)": lr / Math.sqrt(batch) };
}

function dictionary(c, s) {
  const f = LAW.features, base = bases(c, s), out = new Float64Array(f.column.length);
  for (let j = 0; j < out.length; j++) {
    let raw = 1;
    if (f.column[j] !== null) {
      const name = f.column[j], top = f.top[name];
      let x = base[name];
      if (top !== undefined && top > 0 && x > top)
        x = top * Math.exp(-f.taper * Math.expm1(-Math.log(x / top) / f.taper));
      raw = f.exponent[j] === 0 ? Math.log(x) : Math.pow(x, f.exponent[j]);
    }
    out[j] = (raw - f.mean[j]) / f.sd[j];
  }
  return out;
}

/* ---- covariates ---- */
const COVARIATES = LAW.covariates ? LAW.covariates.items : [];
const TRANSFORM = { linear: (x) => x, log: Math.log, "log(1-x)": (x) => Math.log1p(-x) };

/* standardised number, or one and zeros of the levels; a point has its covariates at c0, c1, ... */
const standardCovariates = (c) => COVARIATES.map((v, i) => v.levels.length
  ? v.levels.map((level) => (level === c["c" + i] ? 1 : 0))
  : [(TRANSFORM[v.kind](c["c" + i]) - v.location) / v.unit]);
const localCovariates = (parts) =>
  parts.flatMap((part, i) => (COVARIATES[i].levels.length ? part.map((x) => x * LAW.covariates.apart) : part));

function bowl(z, lower, upper) {
  const inside = Math.min(Math.max(z, lower), upper);
  return 0.5 * inside * inside + inside * (z - inside) - 0.5;
}

function effectColumns(parts, at, z) {
  /* bayes_optlaws.model.effects, in its order */
  const v = LAW.covariates, p = v.trend_power, t = at.map((x) => -Math.expm1(-p * x) / p);
  const bent = v.bent.map(([name, lower, upper]) => bowl(z[name], lower, upper));
  const others = [...LAW.discrepancy.varying.map((k) => z[k]), ...bent], out = [];
  parts.forEach((part, i) => {
    const c = COVARIATES[i], k = v.curvature;
    const curved = c.group ? [k * t[0] * t[0], k * t[1] * t[1], k * t[0] * t[1]] : [];
    for (const x of part) {
      out.push(x);
      if (!c.levels.length) out.push(bowl(x, c.lower, c.upper));
      for (const y of [...t, ...curved, ...others]) out.push(x * y);
    }
  });
  return out;
}

/* ---- discrepancy ---- */
function settings(c, s) {
  const warm = Math.max(s.warmup, 1), flat = c.schedule === "constant";
  const time = flat ? 0 : Math.max(s.steps - s.cooldown, 0);
  const drop = c.peak_lr - s.low, straight = (drop * drop) / Math.max(time, 1e-12);
  const level = time <= 0 || drop <= 0 || s.escape_cooldown <= 0;
  return { lr: Math.log(c.peak_lr), batch: Math.log(c.batch_tokens), warmup: Math.log(warm),
    cooldown: time / Math.max(s.steps - warm, 1),
    shape: level ? 0 : Math.log(s.escape_cooldown / straight), floor: s.low / c.peak_lr };
}

function scales(points) {
  /* scales from the centre; those that are the same are one, as `merge_scales` has it */
  const d = LAW.discrepancy;
  const own = points.map((c) => [Math.log(c.n_params) - d.centre[0], Math.log(c.tokens) - d.centre[1]]);
  const away = (a, b) => Math.max(Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1]));
  const snapped = own.map((p) => {
    let best = Infinity, at = p;
    for (const q of d.seen) { const r = away(p, q); if (r < best) { best = r; at = q; } }
    return best <= d.same_scale ? { at, known: true } : { at: p, known: false };
  });
  if (points.length === 2 && !snapped[0].known && !snapped[1].known && away(own[0], own[1]) <= d.same_scale) {
    const middle = [(own[0][0] + own[1][0]) / 2, (own[0][1] + own[1][1]) / 2];
    snapped[0].at = middle; snapped[1].at = middle;
  }
  return snapped.map((x) => x.at);
}

const near = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2;

/* factors of the correlation of the cells, and weights of the fields, once for every draw */
const CELLS = LAW.discrepancy ? LAW.discrepancy.cells : [], M = CELLS.length;
const FIELDS = LAW.discrepancy ? LAW.discrepancy.fields : 0;
const FACTOR = [], WEIGHT = [];
if (LAW.transfer) for (let s = 0; s < S; s++) {
  const length = LAW.draws.scale_length[s], nugget = LAW.draws.cell_sd[s];
  const L = new Float64Array(M * M), W = new Float64Array(FIELDS * M);
  for (let i = 0; i < M; i++) for (let j = 0; j <= i; j++) {
    const d2 = near(CELLS[i], CELLS[j]);
    let v = Math.exp((-0.5 * d2) / (length * length)) + (d2 < 1e-12 ? nugget * nugget : 0);
    if (i === j) v += LAW.discrepancy.jitter;
    for (let k = 0; k < j; k++) v -= L[i * M + k] * L[j * M + k];
    L[i * M + j] = i === j ? Math.sqrt(v) : v / L[j * M + j];
  }
  for (let f = 0; f < FIELDS; f++) {
    const w = W.subarray(f * M, (f + 1) * M), from = (s * FIELDS + f) * M;
    for (let i = 0; i < M; i++) {
      let v = LAW.draws.fields[from + i];
      for (let k = 0; k < i; k++) v -= L[i * M + k] * w[k];
      w[i] = v / L[i * M + i];
    }
  }
  FACTOR.push(L); WEIGHT.push(W); /* WEIGHT is L^-1 field: the mean is its product with L^-1 k */
}

function localCorrelation(a, b) {
  const d = LAW.discrepancy;
  let over = 0, apart = 0;
  for (let k = 0; k < 2; k++) over += ((a[k] - b[k]) / d.local_scale_lengths[k]) ** 2;
  for (let k = 2; k < a.length; k++) apart += (a[k] - b[k]) ** 2;
  const r = (Math.sqrt(5) / d.local_setting_length) * Math.sqrt(apart);
  return Math.exp(-0.5 * over) * (1 + r + (r * r) / 3) * Math.exp(-r);
}

function localGrowth(p, lr) {
  const d = LAW.discrepancy, far = Math.max(0, ...d.numbers.map((k) => Math.abs(p[k])));
  const most = d.most_unusual;
  return Math.exp(Math.min(far, most) - d.usual + (lr < 0 ? 0 : p[2 + lr])) * Math.max(far / most, 1);
}

function localFunctions(p, growth) {
  const d = LAW.discrepancy, K = d.n_local, n = d.n_points, width = p.length;
  const out = new Float64Array(K);
  for (let i = 0; i < n; i++) {
    const r = growth * localCorrelation(p, LAW.local.points.subarray(i * width, (i + 1) * width));
    for (let k = 0; k < K; k++) out[k] += r * LAW.local.directions[i * K + k];
  }
  return out;
}

function driftColumns(scale) {
  const out = [];
  LAW.discrepancy.drifts.forEach((drift, axis) => drift.sides.forEach(([sign, edge, n]) => {
    const length = edge / Math.max(n, 1);
    for (let k = 0; k < n; k++) {
      const inside = sign * scale[axis] - k * length;
      const within = Math.min(Math.max(inside, 0), length);
      out.push(((within * within) / (2 * length) + Math.max(inside - length, 0)) * Math.sqrt(length));
    }
  }));
  return out;
}

function beyond(scale, axis) {
  const drift = LAW.discrepancy.drifts[axis];
  return Math.min(scale[axis] - drift.lower, 0) + Math.max(scale[axis] - drift.upper, 0);
}

/* ---- what the residuals of neighbouring runs tell, bayes_optlaws.model.neighbours ---- */
function matern(distance) {
  const r = Math.sqrt(5) * distance;
  return (1 + r + (r * r) / 3) * Math.exp(-r);
}

function kriging(p) {
  const { lengths, share, nearest } = LAW.neighbours, E = LAW.residuals, width = lengths.length;
  const gap = (a, b) => Math.sqrt(lengths.reduce((sum, v, k) => sum + ((a[k] - b[k]) / v) ** 2, 0));
  const place = (i) => E.points.subarray(i * width, (i + 1) * width);
  const runs = Array.from(E.own, (_, i) => [gap(p, place(i)), i]).sort((a, b) => a[0] - b[0]).slice(0, nearest);
  const k = runs.length, L = new Float64Array(k * k), g = new Float64Array(k);
  const toNew = runs.map(([r]) => share * matern(r));
  for (let i = 0; i < k; i++) {
    for (let j = 0; j <= i; j++) {
      let v = share * matern(gap(place(runs[i][1]), place(runs[j][1])));
      if (i === j) v += E.own[runs[i][1]];
      for (let m = 0; m < j; m++) v -= L[i * k + m] * L[j * k + m];
      L[i * k + j] = i === j ? Math.sqrt(v) : v / L[j * k + j];
    }
    let v = toNew[i];
    for (let m = 0; m < i; m++) v -= L[i * k + m] * g[m];
    g[i] = v / L[i * k + i];
  }
  let left = 1;
  for (let i = 0; i < k; i++) left -= g[i] * g[i];
  for (let i = k - 1; i >= 0; i--) {
    for (let m = i + 1; m < k; m++) g[i] -= L[m * k + i] * g[m];
    g[i] /= L[i * k + i];
  }
  return { runs: runs.map(([, i]) => i), g, left };
}

/* ---- the posterior at one or two points: mean, variance, covariance, noise, by draw ---- */
function posterior(points) {
  const n = points.length, runs = points.map(schedule);
  const rows = points.map((c, i) => dictionary(c, runs[i]));
  const mean = points.map(() => new Float64Array(S)), noise = points.map(() => new Float64Array(S));
  const variance = points.map(() => new Float64Array(S)), covariance = new Float64Array(S);
  const z = points.map((c, i) => settings(c, runs[i]));
  const d = LAW.discrepancy;
  const standard = (names) => z.map((x) => names.map((k) => (x[k] - d.location[k]) / d.unit[k]));
  const at = scales(points);
  const slopes = standard(d.varying).map((x) => [1, ...x]);
  const unseen = standard(d.unseen);
  const lr = d.varying.indexOf("lr");
  const own = points.map(standardCovariates);
  const effects = own.map((parts, i) => COVARIATES.length
    ? effectColumns(parts, at[i], Object.fromEntries(d.varying.map((k, j) => [k, slopes[i][j + 1]]))) : []);
  let local = null, missed = null, drift = null, distance = null, gaps = null;
  if (LAW.transfer) {
    local = points.map((_, i) => {
      const p = [...at[i], ...slopes[i].slice(1), ...localCovariates(own[i])];
      const growth = localGrowth(p, lr);
      return { p, growth, phi: d.n_local ? localFunctions(p, growth) : new Float64Array(0) };
    });
    missed = (a, b) => {
      let v = a.growth * b.growth * localCorrelation(a.p, b.p);
      for (let k = 0; k < a.phi.length; k++) v -= a.phi[k] * b.phi[k];
      return v;
    };
    drift = at.map(driftColumns);
    gaps = at.map((p) => [beyond(p, 0), beyond(p, 1)]);
  }
  const noiseAt = standard(LAW.noise.names).map((x) => {
    let best = Infinity, found = x;
    for (const centre of LAW.noise.covariates) {
      const r = centre.reduce((sum, v, k) => sum + (v - x[k]) ** 2, 0);
      if (r < best) { best = r; found = centre; }
    }
    return found;
  });
  const q = LAW.features.column.length, nl = LAW.transfer ? d.n_local : 0, nu = LAW.draws.local ? LAW.draws.local.length / S : 0;
  const ne = effects[0].length, nd = nu - ne; /* local functions, drifts, then covariates */
  const told = LAW.neighbours ? local.map((x) => kriging(x.p)) : null;
  const kept = points.map((_, i) => (told ? Math.sqrt(told[i].left) : 1));
  const rest = LAW.transfer && nl ? points.map((_, i) => points.map((__, j) => missed(local[i], local[j]))) : null;
  const w = points.map(() => new Float64Array(M));
  const same = n === 2 ? near(at[0], at[1]) : 0;
  for (let s = 0; s < S; s++) {
    for (let i = 0; i < n; i++) {
      let m = LAW.centre;
      for (let j = 0; j < q; j++) m += LAW.draws.beta[s * q + j] * rows[i][j];
      mean[i][s] = m;
      let sd = LAW.draws.noise_sd[s];
      if (LAW.noise.names.length) {
        let slope = 0;
        noiseAt[i].forEach((v, k) => { slope += v * LAW.draws.noise_slope[s * noiseAt[i].length + k]; });
        sd = Math.hypot(sd, LAW.draws.noise_growth[s] * Math.exp(slope));
      }
      noise[i][s] = sd;
      for (let k = 0; k < ne; k++) mean[i][s] += LAW.draws.local[s * nu + nd + k] * effects[i][k];
    }
    if (!LAW.transfer) continue;
    const L = FACTOR[s], W = WEIGHT[s], length = LAW.draws.scale_length[s], nugget2 = LAW.draws.cell_sd[s] ** 2;
    const kernel = (d2) => Math.exp((-0.5 * d2) / (length * length)) + (d2 < 1e-12 ? nugget2 : 0);
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < M; k++) {
        let v = kernel(near(CELLS[k], at[i]));
        for (let l = 0; l < k; l++) v -= L[k * M + l] * w[i][l];
        w[i][k] = v / L[k * M + k];
      }
      for (let f = 0; f < FIELDS; f++) {
        let v = 0;
        for (let k = 0; k < M; k++) v += W[f * M + k] * w[i][k];
        mean[i][s] += slopes[i][f] * v;
      }
      for (let k = 0; k < nl; k++) mean[i][s] += LAW.draws.local[s * nu + k] * local[i].phi[k];
      for (let k = nl; k < nd; k++) mean[i][s] += LAW.draws.local[s * nu + k] * drift[i][k - nl];
      if (!told) continue;
      const { runs: known, g } = told[i], total = LAW.residuals.own.length;
      let off = 0;
      for (let k = 0; k < g.length; k++) off += g[k] * LAW.residuals.e[s * total + known[k]];
      mean[i][s] += off * Math.hypot(noise[i][s], LAW.draws.local_sd[s] * Math.sqrt(Math.max(rest[i][i], 0)));
      noise[i][s] *= kept[i];
    }
    for (let i = 0; i < n; i++) for (let j = i; j < n; j++) {
      let v = kernel(i === j ? 0 : same);
      for (let k = 0; k < M; k++) v -= w[i][k] * w[j][k];
      let spread = 0;
      for (let f = 0; f < FIELDS; f++)
        spread += slopes[i][f] * slopes[j][f] * LAW.draws.field_sd[s * FIELDS + f] ** 2;
      let total = (i === j ? Math.max(v, 0) : v) * spread;
      if (nl) {
        const r = rest[i][j] * kept[i] * kept[j];
        total += LAW.draws.local_sd[s] ** 2 * (i === j ? Math.max(r, 0) : r);
      }
      for (let axis = 0; axis < 2; axis++) {
        const a = gaps[i][axis], b = gaps[j][axis];
        if (a * b <= 0) continue;
        const low = Math.min(Math.abs(a), Math.abs(b)), high = Math.max(Math.abs(a), Math.abs(b));
        total += (LAW.draws.drift_sd[s * 2 + axis] ** 2 * low * low * (3 * high - low)) / 6;
      }
      for (let k = 0; k < unseen[i].length; k++) total += d.unseen_sd ** 2 * unseen[i][k] * unseen[j][k];
      if (i === j) variance[i][s] = total; else covariance[s] = total;
    }
  }
  distance = at.map((p) => Math.sqrt(Math.min(...d.seen.map((q2) => near(p, q2)))) / LN10);
  return { mean, variance, covariance, noise, distance, runs };
}

/* ---- divergence ---- */
function risk(c, s) {
  const v = LAW.divergence;
  if (!v) return null;
  const logs = { tokens: Math.log(c.tokens), batch: Math.log(c.batch_tokens) };
  const steps = logs.tokens - logs.batch, warm = Math.log(Math.max(s.warmup, 1));
  const left = 1 - Math.exp(Math.min(warm, v.highest.warmup) - steps);
  const recovery = -Math.log2(Math.max(left, v.least_remainder));
  const within = (name, x) =>
    (Math.min(Math.max(x, v.lowest[name]), v.highest[name]) - v.centre[name]) / v.spread[name];
  const z = { batch: within("batch", logs.batch), recovery: within("recovery", recovery) };
  z.batch_bend = Math.sqrt(1 + z.batch * z.batch) - 1;
  const covariates = standardCovariates(c).flatMap((part, i) => {
    const { levels, share, lower, upper } = COVARIATES[i];
    return part.map((x, j) => (levels.length ? x - share[j] : Math.min(Math.max(x, lower), upper)));
  });
  const columns = [...v.names.map((name) => z[name]), ...covariates];
  const unit = Math.log(1e9), size = Math.log(c.n_params) - unit, tokens = logs.tokens - unit;
  const exposure = steps - warm, lr = Math.log(c.peak_lr / v.lr_unit);
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
  const out = new Float64Array(S), k = columns.length, p = v.draws;
  for (let i = 0; i < S; i++) {
    const ratio = lr - (Math.log(p.c1[i]) + p.c2[i] * tokens - p.c3[i] * size);
    const excess = 2 * ratio - softplus(0.5 * softplus(2 * ratio));
    let r = 2 * excess + Math.log(p.kappa[i]) + p.gamma[i] * exposure;
    columns.forEach((x, j) => { r += p.correction[i * k + j] * x; });
    out[i] = 1 / (1 + Math.exp(-p.slope[i] * r));
  }
  return out;
}

/* ---- mixtures over draws ---- */
function quantile(cdf, low, high, p, rounds) {
  for (let k = 0; k < rounds; k++) { const x = 0.5 * (low + high); if (cdf(x) < p) low = x; else high = x; }
  return 0.5 * (low + high);
}
function mixture(mean, sd, weight) {
  let low = Infinity, high = -Infinity;
  for (let s = 0; s < mean.length; s++) { low = Math.min(low, mean[s] - 9 * sd[s]); high = Math.max(high, mean[s] + 9 * sd[s]); }
  const cdf = (x) => {
    let sum = 0;
    for (let s = 0; s < mean.length; s++)
      sum += weight[s] * (sd[s] > 0 ? phi((x - mean[s]) / sd[s]) : x >= mean[s] ? 1 : 0);
    return sum;
  };
  return { cdf, low, high };
}
function average(values) { let sum = 0; for (const v of values) sum += v; return sum / values.length; }
function between(values, p) {
  const x = Float64Array.from(values).sort(), i = p * (x.length - 1), k = Math.floor(i);
  return x[k] + (i - k) * (x[Math.min(k + 1, x.length - 1)] - x[k]);
}

function answer(c, baseline, rounds = 60) {
  const points = baseline ? [c, baseline] : [c], found = posterior(points), tail = (1 - LAW.prob) / 2;
  const cap = Math.log(LAW.untrained_loss);
  const m = found.mean[0], tails = LAW.noise.tails, n = S * tails.length;
  const centre = new Float64Array(n), sd = new Float64Array(n), weight = new Float64Array(n);
  let loss = 0, square = 0;
  for (let i = 0; i < n; i++) {
    /* the noise is normal, or a sum of normals (Student-t): variances and weights in tails */
    const s = i % S, [factor, share] = tails[(i - s) / S];
    const v = found.variance[0][s] + factor * found.noise[0][s] ** 2;
    centre[i] = m[s]; sd[i] = Math.sqrt(v); weight[i] = share / S;
    /* mean and mean square of the loss, none above that of an untrained model */
    const low = (k) => Math.exp(k * m[s] + 0.5 * k * k * v) * phi((cap - m[s] - k * v) / sd[i]) + Math.exp(k * cap) * phi((m[s] - cap) / sd[i]);
    loss += weight[i] * low(1); square += weight[i] * low(2);
  }
  const mix = mixture(centre, sd, weight), at = (p) => Math.exp(Math.min(quantile(mix.cdf, mix.low, mix.high, p, rounds), cap));
  const out = { loss_mean: loss, loss_sd: Math.sqrt(Math.max(square - loss * loss, 0)),
    loss_lower: at(tail), loss_upper: at(1 - tail), extrapolation: found.distance[0], steps: found.runs[0].steps };
  const p = risk(c, found.runs[0]);
  if (p) { out.p_diverge = average(p); out.p_diverge_lower = between(p, tail); out.p_diverge_upper = between(p, 1 - tail); }
  if (baseline) {
    let better = 0, gain = 0;
    for (let s = 0; s < S; s++) {
      const gap = found.mean[1][s] - m[s];
      const v = found.variance[0][s] + found.variance[1][s] - 2 * found.covariance[s];
      better += v > 1e-14 ? phi(gap / Math.sqrt(v)) : gap > 0 ? 1 : gap < 0 ? 0 : 0.5;
      gain += Math.exp(found.mean[1][s]) - Math.exp(m[s]);
    }
    out.p_better = better / S; out.gain = gain / S;
  }
  return out;
}
