"use strict";
// Charts of an rtdyn report. Text from the data reaches the page as text only: through textContent, or escaped for plotly.
const data = JSON.parse(document.getElementById("data").textContent);
const single = data.runs.length === 1;
const byId = (id) => document.getElementById(id);
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const allSteps = [...new Set(data.runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
const hasTokens = data.runs.every((run) => run.tokens.every((t) => t !== null));
const choices = {
  "curve-x": { name: "rank", values: ["log", "linear"] },
  "curve-y": { name: "influence", values: ["log", "linear"] },
  x: { name: "step", values: ["log", "linear", ...(hasTokens ? ["tokens, log", "tokens"] : [])] },
  y: { name: "values", values: ["as fits", "linear", "symlog"] },
  map: { name: "show", values: ["influence", "regime"] },
  "attention-y": { name: "attention", values: ["log", "linear"] },
};
const state = Object.fromEntries(Object.keys(choices).map((key) => [key, 0]));
const chosen = (key) => choices[key].values[state[key]];
let step = Math.max(...data.runs.map((run) => run.last));
const stepOf = (address) => allSteps.find((s) => address === `#step=${s}`); // undefined where it names none
step = stepOf(location.hash) ?? step;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
// the darkest of the palette's colours are lightened on a dark ground
const lighter = { "#0072B2": "#56B4E9", "#56B4E9": "#9bd5f5", "#D55E00": "#ff8a3c", "#000000": "#e8eaed", "#009E73": "#2fcf9f" };
let printing = false;
const shade = (colour) => (dark.matches && !printing && lighter[colour]) || colour;
const faint = (colour, alpha) => {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(shade(colour).slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
};
const GREY = "#8f959b";
const number = (v, figures = 4) => (v === null || v === undefined ? "undefined" : Number(v).toPrecision(figures).replace(/(\.\d*?)0+(e|$)/, "$1$2").replace(/\.(e|$)/, "$1").replace("-", "−"));
const thousands = (v) => v.toLocaleString("en-US");

function layout(title, x, y, more) {
  const axis = { gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), automargin: true, fixedrange: false };
  return {
    title: { text: plain(title), x: 0.02, xanchor: "left", y: 0.97, yanchor: "top", font: { size: 13 } },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--ink"), size: 11, family: "system-ui, sans-serif" },
    margin: { l: 52, r: 12, t: 34, b: 38 }, showlegend: false, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: css("--ground"), bordercolor: css("--line"), font: { color: css("--ink") } },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: 10 } }, // above, where no title of an axis is
    ...(more?.showlegend ? { margin: { l: 52, r: 12, t: 52, b: 38 } } : {}), ...more,
    xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y },
  };
}
const config = { displaylogo: false, displayModeBar: false, responsive: true, doubleClick: "reset" };
// told: what the chart says in words, and its numbers as rows under a header, made when they are asked for
function draw(id, traces, shape, told) {
  Plotly.react(byId(id), traces, printing ? { ...shape, width: byId(id).clientWidth } : shape, config);
  tell(id, told);
}
const range95 = (low, high) => (low === null || low === undefined || high === null ? "" : ` (${number(low, 3)} to ${number(high, 3)})`);
const line = (x, y, colour, more) => ({ x, y, mode: "lines", line: { color: colour, width: 1.6 }, hoverinfo: "skip", showlegend: false, ...more });
function band(x, low, high, colour) {
  const kept = x.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
  const at = kept.map((i) => x[i]);
  return { x: [...at, ...at.slice().reverse()], y: [...kept.map((i) => high[i]), ...kept.reverse().map((i) => low[i])],
    mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: colour, hoverinfo: "skip", showlegend: false };
}
function nothing(id, why) {
  const quiet = { visible: false };
  draw(id, [], layout("", quiet, quiet, { annotations: [{ text: plain(why), showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper" }] }), { words: `Not drawn: ${why}.` });
}

// axes that plotly lacks: steps as log10(step + 1), so that step 0 has a place, and a symmetric logarithm
function decades(most) {
  const ticks = [0];
  for (let t = 1; t <= most; t *= 10) ticks.push(t);
  return ticks;
}
const short = (v) => (v >= 1e9 ? `${v / 1e9}B` : v >= 1e6 ? `${v / 1e6}M` : v >= 1e3 ? `${v / 1e3}k` : `${v}`);
function stepAxis() {
  const name = chosen("x");
  const tokens = name.startsWith("tokens");
  const value = (run, s) => (tokens ? run.tokens[run.steps.indexOf(s)] : s);
  const title = { text: tokens ? "tokens seen" : "step", standoff: 4, font: { size: 10 } };
  if (!name.includes("log")) return { value, axis: { title, nticks: 5 } };
  const most = Math.max(...data.runs.flatMap((run) => run.steps.map((s) => value(run, s))));
  const least = tokens ? Math.min(...data.runs.flatMap((run) => run.tokens.filter((t) => t > 0))) : 1;
  const scaled = (v) => Math.log10(v / least + 1);
  const ticks = decades(most).filter((t) => t === 0 || t >= least);
  return { value: (run, s) => scaled(value(run, s)), axis: { title, tickvals: ticks.map(scaled), ticktext: ticks.map(short) } };
}
function logAxis(values) { // whole decades, or 1, 2 and 5 of each where there are few
  const known = values.filter((v) => v > 0);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const decade = Math.floor(Math.log10(low));
  const digits = Math.log10(high / low) > 2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let k = decade; k <= Math.ceil(Math.log10(high)) && ticks.length < 60; k += 1) ticks.push(...digits.map((d) => Number(`${d}e${k}`)));
  return { type: "log", tickvals: ticks, ticktext: ticks.map((t) => (t >= 0.001 && t < 1e4 ? String(t) : t.toExponential().replace("e", "·10<sup>").replace("+", "").replace("-", "−").replace(/^1·/, "") + "</sup>")) };
}
function valueAxis(scale, values) {
  const known = values.filter((v) => v !== null && v !== undefined);
  const wanted = chosen("y") === "as fits" ? scale : chosen("y");
  if (wanted === "log" && known.every((v) => v > 0)) return { map: (v) => v, axis: logAxis(known) };
  const oneSign = known.every((v) => v > 0) || known.every((v) => v < 0);
  const isNarrow = oneSign && Math.max(...known.map(Math.abs)) < 10 * Math.min(...known.map(Math.abs));
  if (wanted !== "symlog" || (isNarrow && chosen("y") === "as fits")) return { map: (v) => v, axis: { nticks: 6 } };
  const size = Math.max(...known.map(Math.abs), 1e-300);
  const threshold = size / 10;
  const map = (v) => (v === null || v === undefined ? null : Math.asinh(v / threshold));
  const top = 10 ** Math.floor(Math.log10(size));
  const positive = [top / 100, top / 10, top, ...(size >= 3 * top ? [3 * top] : [])].filter((t) => t >= threshold / 5);
  const ticks = [...positive.map((t) => -t).reverse(), 0, ...positive].filter(
    (t) => t >= Math.min(...known) * 1.2 - threshold && t <= Math.max(...known) * 1.2 + threshold);
  return { map, axis: { tickvals: ticks.map(map), ticktext: ticks.map((t) => number(t)) } };
}

const SEGMENTS = { plateau: "#CC79A7", powerlaw: "#000000", decay: "#009E73" };
function drawCurves() {
  for (const name of ["rare", "common"]) {
    const traces = [];
    const titles = [];
    const words = [];
    const rows = [];
    data.runs.forEach((run) => {
      const place = run.steps.indexOf(step);
      const found = run.influence[name];
      if (place < 0 || !found) return;
      const { influence, error, neuron, fit, verdict } = found.steps[place];
      const colour = single ? data.colours[name] : run.colour;
      const ends = (i) => (error[i] === null ? [null, null] : [influence[i] - error[i], influence[i] + error[i]]);
      words.push(`${single ? "" : `${run.label}: `}the largest is ${number(influence[0])}${range95(...ends(0))} nats, of neuron ${neuron[0]}; ${verdict}`);
      found.ranks.forEach((rank, i) => rows.push([run.label, name, step, rank, neuron[i], influence[i], ...ends(i)]));
      const positive = influence.map((v) => (v > 0 ? v : null));
      if (single) {
        const floor = Math.min(...positive.filter((v) => v !== null)) / 10;
        if (name === "rare") traces.push(band(run.band[place].x, run.band[place].low, run.band[place].high, faint(GREY, 0.45)));
        traces.push(band(found.ranks, positive.map((v, i) => (v === null || error[i] === null ? null : Math.max(v - error[i], floor))),
          positive.map((v, i) => (v === null || error[i] === null ? null : v + error[i])), faint(colour, 0.25)));
      }
      traces.push(line(found.ranks, positive, shade(colour), { hoverinfo: "text", text: found.ranks.map((r, i) =>
        `${plain(run.label)}<br>rank ${thousands(r)}, neuron ${neuron[i]}<br>${number(influence[i])}${range95(...ends(i))} nats`) }));
      for (const [segment, [x, y]] of Object.entries(fit)) traces.push(line(x, y, shade(single ? SEGMENTS[segment] : "#000000"), { line: { color: shade(single ? SEGMENTS[segment] : "#000000"), width: 1 } }));
      titles.push(single ? verdict : "");
    });
    if (!traces.length) { nothing(`curve-${name}`, `no run has step ${step} for ${name} tokens`); continue; }
    const y = { ...(chosen("curve-y") === "log" ? { ...logAxis(limits().map((v) => 10 ** v)), range: limits() } : {}), title: { text: "influence (nats)" } };
    draw(`curve-${name}`, traces, layout(`${name}${titles[0] ? ": " + titles[0] : ""}`,
      { type: chosen("curve-x"), title: { text: "rank" }, dtick: chosen("curve-x") === "log" ? 1 : undefined }, y),
      { words: `Influence on ${name} tokens at step ${thousands(step)}. ${sentences(words)}`, rows: () => rows,
        header: ["run", "class", "step", "rank", "neuron", "influence_nats", "ci_low", "ci_high"] });
  }
}
const sentences = (parts) => parts.map((part) => `${part[0].toUpperCase()}${part.slice(1)}.`).join(" ");
let range = null;
function limits() { // the same at every step, so that the slider moves curves and not axes; all but the smallest half percent
  if (range) return range;
  const values = data.runs.flatMap((run) => Object.values(run.influence).flatMap((c) => c.steps.flatMap((s) => s.influence))).filter((v) => v > 0).sort((a, b) => a - b);
  range = [Math.log10(values[Math.floor(values.length / 200)]) - 0.2, Math.log10(values[values.length - 1]) + 0.3];
  return range;
}

// of several runs, whose colours stand beside the slider: what each kind of line is
const dashKey = (kinds) => (single ? [] : kinds.map(([label, dash]) => ({ x: [null], y: [null], mode: "lines", name: plain(label), showlegend: true, line: { color: css("--quiet"), width: 1.5, dash } })));
const DASHES = ["solid", "dot", "dash", "dashdot"];
function drawPanel(panel) {
  const axis = stepAxis();
  const labels = [...new Set(data.runs.flatMap((run) => (run.series[panel.name] || []).map((one) => one.label)))];
  const found = data.runs.flatMap((run) => (run.series[panel.name] || []).map((one) => ({ run, one, place: labels.indexOf(one.label) })));
  const values = found.flatMap(({ one }) => [...one.value, ...(one.low || []), ...(one.nullLow || [])]);
  const scale = valueAxis(panel.scale, values);
  const traces = [];
  const shapes = stepMark(axis);
  const annotations = [];
  found.forEach(({ run, one, place }) => {
    const colour = single ? data.colours[one.colour] : run.colour;
    const x = one.steps.map((s) => axis.value(run, s));
    if (one.nullLow) traces.push(band(x, one.nullLow.map(scale.map), one.nullHigh.map(scale.map), faint(colour, single ? 0.2 : 0.1)));
    if (single && one.nullMean) traces.push(line(x, one.nullMean.map(scale.map), shade(colour), { line: { color: shade(colour), width: 1, dash: "dash" } }));
    const text = one.steps.map((s, i) => `${plain(run.label)}, ${plain(one.label)}<br>step ${thousands(s)}: ${number(one.value[i])}`
      + (one.low && one.low[i] !== null ? `<br>95 %: ${number(one.low[i])} to ${number(one.high[i])}` : "")
      + (one.nullMean && one.nullMean[i] !== null ? `<br>null${one.nullName ? ` (${one.nullName})` : ""} ${number(one.nullMean[i])}` : "") + (one.p && one.p[i] !== null ? `, p ${number(one.p[i])}` : ""));
    const bars = one.low ? { error_y: { type: "data", symmetric: false, color: faint(colour, single ? 0.6 : 0.35), thickness: 1, width: 0,
      array: one.value.map((v, i) => (one.high[i] === null || v === null ? 0 : scale.map(one.high[i]) - scale.map(v))),
      arrayminus: one.value.map((v, i) => (one.low[i] === null || v === null ? 0 : scale.map(v) - scale.map(one.low[i]))) } } : {};
    traces.push({ x, y: one.value.map(scale.map), mode: "lines+markers", marker: { size: 3.5, color: shade(colour) }, hoverinfo: "text", text,
      line: { color: shade(colour), width: 1.5, dash: single ? "solid" : DASHES[place] }, name: plain(one.label), showlegend: single, ...bars });
    if (one.leftOut) traces.push({ x: one.leftOut.steps.map((s) => axis.value(run, s)), y: one.leftOut.value.map(scale.map), mode: "markers", hoverinfo: "text", showlegend: false,
      marker: { symbol: "x-thin", size: 7, line: { width: 1.5, color: shade(colour) } }, text: one.leftOut.steps.map((s) => `step ${thousands(s)} is left out: ${plain(run.leftOut[s])}`) });
    if (one.emerged && one.emerged.step !== null) {
      const at = axis.value(run, one.emerged.step);
      const after = one.emerged.after === null ? at : axis.value(run, one.emerged.after);
      shapes.push({ type: "rect", xref: "x", yref: "paper", x0: after, x1: at, y0: 0, y1: 1, fillcolor: faint(colour, 0.15), line: { width: 0 }, layer: "below" });
      annotations.push({ x: at, y: 1, xref: "x", yref: "paper", text: "▼", showarrow: false, font: { color: shade(colour), size: 12 }, yanchor: "top", yshift: -8 * place,
        hovertext: `${plain(one.label)} emerged at step ${one.emerged.step}` });
    }
    if (single) one.changes.forEach(([, s]) => shapes.push({ type: "line", xref: "x", yref: "paper", x0: axis.value(run, s), x1: axis.value(run, s), y0: 0, y1: 1,
      line: { color: faint(colour, 0.8), width: 1, dash: "dot" } }));
  });
  traces.push(...dashKey(labels.map((label, place) => [label, DASHES[place]])));
  if (panel.isP) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: scale.map(0.05), y1: scale.map(0.05), line: { color: css("--quiet"), width: 1, dash: "dash" } });
  draw(`panel-${panel.name}`, traces, layout(`${panel.title}${panel.unit ? ` (${panel.unit})` : ""}`, axis.axis, scale.axis,
    { shapes, annotations, showlegend: true, margin: { l: 44, r: 8, t: 48, b: 34 } }),
    { words: `${panel.title}${panel.unit ? `, ${panel.unit}` : ""}. ${sentences(found.map(lineInWords))}`, rows: () => found.flatMap(lineRows),
      header: ["run", "line", "step", "value", "ci_low", "ci_high", "null", "null_mean", "null_low", "null_high", "p", "left_out"] });
}
function lineInWords({ run, one }) {
  const known = one.steps.map((_, i) => i).filter((i) => one.value[i] !== null);
  const at = (i) => `${number(one.value[i])}${one.low ? range95(one.low[i], one.high[i]) : ""} at step ${thousands(one.steps[i])}`;
  const ends = [...new Set([known[0], known[known.length - 1]])].map(at).join(", ");
  const emerged = one.emerged && one.emerged.step !== null ? `; emerged at step ${thousands(one.emerged.step)}` : "";
  const changed = one.changes.length ? `; changes at ${one.changes.map(([, s]) => thousands(s)).join(", ")}` : "";
  return `${single ? "" : `${run.label}, `}${one.label}: ${ends}${emerged}${changed}`;
}
function lineRows({ run, one }) {
  const at = (name, i) => (one[name] ? one[name][i] : null);
  const sound = one.steps.map((s, i) => [run.label, one.label, s, one.value[i], at("low", i), at("high", i), one.nullName || "", at("nullMean", i), at("nullLow", i), at("nullHigh", i), at("p", i), ""]);
  const flawed = (one.leftOut ? one.leftOut.steps : []).map((s, i) => [run.label, one.label, s, one.leftOut.value[i], ...Array(7).fill(null), run.leftOut[s]]);
  return [...sound, ...flawed];
}
// the chosen step, as the first shape of every chart over steps
const STEP_CHARTS = ["x", "map"];
function stepPlace(axis) {
  const run = data.runs.find((r) => r.steps.includes(step));
  return axis.value(run, step);
}
function stepMark(axis) {
  if (!byId("step")) return [];
  const at = stepPlace(axis);
  return [{ type: "line", xref: "x", yref: "paper", x0: at, x1: at, y0: 0, y1: 1, line: { color: css("--accent"), width: 1.2 } }];
}
function moveMarks() {
  charts.forEach((chart, id) => {
    if (!chart.drawn || !STEP_CHARTS.some((key) => chart.keys.includes(key))) return;
    const ids = id === "sizes-rare" ? ["sizes-rare", "sizes-common"] : [id];
    for (const each of ids.filter((one) => byId(one).layout.shapes)) {
      const [low, high] = id === "map" ? mapColumn() : Array(2).fill(stepPlace(stepAxis()));
      Plotly.relayout(byId(each), { "shapes[0].x0": low, "shapes[0].x1": high });
    }
  });
}

const REGIME_NAMES = { plateau: "top", powerlaw: "power law", decay: "rapid decay" };
const REGIME_DASHES = ["solid", "dash", "dot"];
const sizeSaid = (share, edge) => `${edge && `${edge} `}${(100 * share).toFixed(1)} %`; // ≥ or ≤ where the boundary is the last that could be found
function drawSizes() {
  const axis = stepAxis();
  for (const name of ["rare", "common"]) {
    const traces = data.runs.flatMap((run) => Object.entries(run.regimes[name] || {}).filter(([key, v]) => key in REGIME_NAMES && v.some((x) => x !== null)).map(([regime, share], i) => {
      const colour = shade(single ? SEGMENTS[regime] : run.colour);
      const ends = run.regimes[name];
      return { x: run.steps.map((s) => axis.value(run, s)), y: share, mode: "lines+markers", marker: { size: run.steps.map((s, k) => (!i && (ends.raised[k] || ends.edge[k]) ? 8 : 4)), color: colour, symbol: run.steps.map((s, k) => (s in run.leftOut ? "x-thin-open" : !i && ends.edge[k] ? "circle-open" : "circle")) },
        line: { color: colour, width: 1.6, dash: REGIME_DASHES[i] }, name: REGIME_NAMES[regime], showlegend: single, hoverinfo: "text",
        text: run.steps.map((s, k) => `${plain(run.label)}, ${REGIME_NAMES[regime]}<br>step ${thousands(s)}: ${share[k] === null ? "undefined" : sizeSaid(share[k], i ? "" : ends.edge[k])}`
          + (i || ends.low[k] === null || ends.high[k] === null ? "" : `<br>last rank, 95 %: ${(100 * ends.low[k]).toFixed(1)} to ${(100 * ends.high[k]).toFixed(1)} %`)
          + (i || share[k] === null ? "" : `<br>${ends.raised[k] ? "raised" : "flattening"} top`)),
        ...(i || !single ? {} : { error_y: { type: "data", symmetric: false, color: faint(SEGMENTS.plateau, 0.6), thickness: 1, width: 0,
          array: share.map((v, k) => (v === null || ends.high[k] === null ? 0 : ends.high[k] - v)), arrayminus: share.map((v, k) => (v === null || ends.low[k] === null ? 0 : v - ends.low[k])) } }) };
    }));
    if (!traces.length) nothing(`sizes-${name}`, "the analysis regimes was not asked for");
    else draw(`sizes-${name}`, [...traces, ...dashKey(Object.values(REGIME_NAMES).map((called, i) => [called, REGIME_DASHES[i]]))], layout(name, axis.axis, { range: [0, 1], title: { text: "share of neurons" } }, { showlegend: true, shapes: stepMark(axis) }),
      { words: `Share of neurons in each regime, ${name} tokens. ${sentences(data.runs.map((run) => sizesInWords(run, name)).filter(Boolean))}`, rows: () => data.runs.flatMap((run) => sizeRows(run, name)),
        header: ["run", "class", "step", ...Object.keys(REGIME_NAMES), "plateau_low", "plateau_high", "raised", "at_edge", "left_out"] });
  }
}

function sizesInWords(run, name) {
  const sizes = run.regimes[name];
  const k = run.steps.indexOf(run.last);
  if (!sizes || sizes.plateau[k] === null) return "";
  const shares = Object.entries(REGIME_NAMES).filter(([key]) => sizes[key][k] !== null).map(([key, called]) => `${called} ${sizeSaid(sizes[key][k], key === "plateau" ? sizes.edge[k] : "")}`);
  return `${single ? "" : `${run.label}, `}at step ${thousands(run.last)}: ${shares.join(", ")}; ${sizes.raised[k] ? "raised" : "flattening"} top`;
}
function sizeRows(run, name) {
  const sizes = run.regimes[name];
  return sizes ? run.steps.map((s, k) => [run.label, name, s, ...Object.keys(REGIME_NAMES).map((key) => sizes[key][k]), sizes.low[k], sizes.high[k], sizes.raised[k], sizes.edge[k], run.leftOut[s] || ""]) : [];
}

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
function drawMap() {
  const run = data.runs[0];
  const { neurons, total, low, high, levels, regimes } = run.map;
  const regime = chosen("map") === "regime";
  const [left, right] = mapColumn();
  if (regime && !regimes) { nothing("map", "the analysis regimes was not asked for"); return; }
  const cells = bytes(regime ? regimes : levels);
  const rows = neurons.map((_, r) => Array.from(cells.subarray(r * run.steps.length, (r + 1) * run.steps.length)));
  const value = (c) => (c === 255 ? null : regime ? c : low + (high - low) * c / 254);
  const text = rows.map((row, r) => row.map((c, k) => `neuron ${neurons[r]}, step ${thousands(run.steps[k])}<br>`
    + (c === 255 ? "undefined" : regime ? data.regimes[c].name : `${(10 ** value(c)).toPrecision(2)} nats`)));
  const count = data.regimes.length;
  const scale = regime ? data.regimes.flatMap(({ colour }, i) => [[i / count, colour], [(i + 1) / count, colour]]) : "Cividis";
  const bar = regime ? { tickvals: data.regimes.map((_, i) => i), ticktext: data.regimes.map((r) => r.name) } : { title: { text: "log₁₀ nats", side: "right" } };
  const every = Math.ceil(run.steps.length / (innerWidth < 600 ? 5 : 12));
  const ticks = run.steps.map((_, i) => i).filter((i) => i % every === 0);
  draw("map", [{ type: "heatmap", z: rows.map((row) => row.map(value)), text, hoverinfo: "text", colorscale: scale, zmin: regime ? -0.5 : low, zmax: regime ? count - 0.5 : high,
    colorbar: { ...bar, thickness: 10, tickfont: { size: 9 } } }],
    layout(regime ? "Regime on rare tokens" : "Influence on rare tokens", { tickvals: ticks, ticktext: ticks.map((i) => short(run.steps[i]) + (run.steps[i] in run.leftOut ? " ✕" : "")), title: { text: "step" } },
      { autorange: "reversed", title: { text: "neurons, by influence at the last step" } }, { margin: { l: 44, r: 4, t: 34, b: 38 },
        shapes: [{ type: "rect", xref: "x", yref: "paper", x0: left, x1: right, y0: 0, y1: 1, line: { color: css("--accent"), width: 1.2 } }] }),
    { words: `${regime ? "Regime" : "Influence"} of ${neurons.length} neurons on rare tokens over ${run.steps.length} steps; the table below names the first of them.`,
      rows: () => rows.flatMap((row, r) => row.map((c, k) => [neurons[r], run.steps[k], c === 255 ? null : regime ? data.regimes[c].name : Number((10 ** value(c)).toPrecision(2))])),
      header: ["neuron", "step", regime ? "regime" : "influence_nats"] });
  byId("map-note").textContent = `The ${neurons.length} of ${thousands(total)} neurons that ranked highest at any step, a column a step whatever its distance; ✕: a step that trajectories leave out.`;
}

function drawLayers() {
  const run = data.runs[0];
  run.layers.maps.forEach(({ title, unit, values }, m) => {
    const size = Math.max(...values.flat().map((v) => Math.abs(v ?? 0)), 1e-300);
    const signed = values.flat().some((v) => v < 0);
    const text = values.map((row, r) => row.map((v, k) => `${run.layers.names[r]}, step ${thousands(run.steps[k])}<br>${number(v)}`));
    const every = Math.ceil(run.steps.length / (innerWidth < 600 ? 4 : 8));
    const ticks = run.steps.map((_, i) => i).filter((i) => i % every === 0);
    draw(`layers-${m}`, [{ type: "heatmap", z: values, y: run.layers.names, text, hoverinfo: "text", colorscale: signed ? run.layers.twoSigns.map((c, i, { length }) => [i / (length - 1), c]) : "Cividis", zmin: signed ? -size : 0, zmax: size,
      colorbar: { title: { text: unit, side: "right" }, thickness: 10, tickfont: { size: 9 } } }],
      layout(title, { tickvals: ticks, ticktext: ticks.map((i) => short(run.steps[i]) + (run.steps[i] in run.leftOut ? " ✕" : "")), title: { text: "step" } }, { autorange: "reversed", type: "category" }),
      { words: `${title}, ${unit}, of ${run.layers.names.length} layers over ${run.steps.length} steps.`, header: ["layer", "step", "value"],
        rows: () => values.flatMap((row, r) => row.map((v, k) => [run.layers.names[r], run.steps[k], v])) });
  });
}
function drawCalibration() {
  const run = data.runs[0];
  const one = run.layers.calibration.find((c) => c.name === byId("layer").value);
  const at = one && run.steps.includes(step) ? one.steps[run.steps.indexOf(step)] : null;
  if (!at || !at.exact.length) { nothing("calibration", "the layer was not measured at this step"); return; }
  const known = at.exact.map((_, i) => i).filter((i) => at.exact[i] > 0 && at.first_order[i] > 0);
  const [x, y] = [known.map((i) => at.first_order[i]), known.map((i) => at.exact[i])];
  const ends = [Math.min(...x, ...y), Math.max(...x, ...y)];
  draw("calibration", [line(ends, ends, shade("#000000"), { line: { color: shade("#000000"), width: 1 } }),
    { x, y, mode: "markers", marker: { size: 6, color: shade("#0072B2") }, showlegend: false, hoverinfo: "text",
      text: known.map((i) => `neuron ${at.neuron[i]}<br>first order ${number(at.first_order[i])}, exact ${number(at.exact[i])} nats`) }],
    layout(`${one.name}: ${at.said}`, { ...logAxis([...x, ...ends]), title: { text: "influence to first order (nats)" } }, { ...logAxis([...y, ...ends]), title: { text: "exact influence (nats)" } }),
    { words: `Exact influence on rare tokens against the first order, ${at.exact.length} random neurons of ${one.name}, at step ${thousands(step)}: ${at.said}.`,
      rows: () => at.exact.map((v, i) => [one.name, step, at.neuron[i], at.first_order[i], v]), header: ["layer", "step", "neuron", "first_order", "exact"] });
}

function mapColumn() { const k = data.runs[0].steps.indexOf(step); return [k - 0.5, k + 0.5]; }

function drawTable() {
  if (!byId("neuron-table")) return;
  const run = data.runs[0];
  byId("table-step").textContent = thousands(step);
  byId("neuron-table").replaceChildren(...run.table[run.steps.indexOf(step)].map((row) => {
    const tr = document.createElement("tr");
    row.forEach((cell, i) => {
      const made = tr.appendChild(document.createElement(i ? "td" : "th"));
      if (!i) made.scope = "row";
      made.textContent = cell;
    });
    return tr;
  }));
}

function fill(id, names) {
  if (byId(id)) byId(id).replaceChildren(...names.map((name) => { const option = document.createElement("option"); option.value = option.textContent = name; return option; }));
}
const headName = (one) => `layer ${one.layer}, head ${one.head}`;
const groupName = (one) => one.group + (one.matrix ? `, ${one.matrix}` : "");
function drawAttention() {
  const traces = [];
  const rows = [];
  data.runs.forEach((run) => {
    const one = run.attention.find((a) => headName(a) === byId("head").value);
    const at = one && run.steps.includes(step) ? one.steps[run.steps.indexOf(step)] : null;
    if (!at) return;
    const x = at.rare.map((_, i) => i);
    x.forEach((k) => rows.push([run.label, one.layer, one.head, step, k, at.rare[k], at.common[k], at.low[k], at.high[k]]));
    if (single) traces.push(band(x, at.low, at.high, faint(GREY, 0.45)));
    for (const name of ["common", "rare"]) traces.push(line(x, at[name], shade(single ? data.colours[name] : run.colour), { name, showlegend: single,
      line: { color: shade(single ? data.colours[name] : run.colour), width: 1.6, dash: single || name === "rare" ? "solid" : "dash" }, hoverinfo: "text",
      text: x.map((k) => `${plain(run.label)}, ${name}<br>${k} keys back: ${number(at[name][k])}`) }));
  });
  if (!traces.length) { nothing("attention-chart", "no attention profiles are stored for this step"); return; }
  draw("attention-chart", [...traces, ...dashKey([["rare", "solid"], ["common", "dash"]])], layout(byId("head").value, { title: { text: "keys back from the query" } }, { ...(chosen("attention-y") === "log" ? logAxis(traces.flatMap((t) => t.y)) : {}), title: { text: "mean attention" } }, { showlegend: true }),
    { words: `Mean attention by distance of the key, ${byId("head").value}, at step ${thousands(step)}: rare and common tokens.`, rows: () => rows,
      header: ["run", "layer", "head", "step", "keys_back", "rare", "common", "pseudo_low", "pseudo_high"] });
}
function drawSpectra() {
  const traces = [];
  const rows = [];
  data.runs.forEach((run) => {
    const one = run.spectra.find((s) => groupName(s) === byId("group").value);
    const halves = one && run.steps.includes(step) ? one.steps[run.steps.indexOf(step)] : [];
    (single ? halves : halves.slice(0, 1)).forEach((half, h) => {
      const colour = single ? data.colours[one.group] : run.colour;
      half.x.forEach((rank, i) => rows.push([run.label, groupName(one), step, h + 1, rank, half.value[i], half.low[i], half.high[i], half.fit[i]]));
      traces.push(band(half.x, half.low, half.high, single ? faint(GREY, 0.3) : faint(colour, 0.1)));
      if (single) traces.push(line(half.x, half.fit, shade("#000000"), { line: { color: shade("#000000"), width: 1 } }));
      traces.push(line(half.x, half.value, shade(colour), { line: { color: shade(colour), width: 1.6, dash: h ? "dash" : "solid" }, hoverinfo: "text",
        text: half.x.map((r, i) => `${plain(run.label)}<br>eigenvalue ${r}: ${number(half.value[i])}${half.low[i] === null ? "" : `<br>selected sets ${number(half.low[i])} to ${number(half.high[i])}`}`) }));
    });
  });
  if (!traces.length) { nothing("spectra-chart", "no spectra are stored for this step"); return; }
  draw("spectra-chart", traces, layout(byId("group").value, { type: "log", title: { text: "rank of the eigenvalue" }, dtick: 1 }, { ...logAxis(traces.flatMap((t) => t.y)), title: { text: "eigenvalue" } }),
    { words: `Eigenvalues of the input weights of the group ${byId("group").value} by rank, at step ${thousands(step)}.`, rows: () => rows,
      header: ["run", "group", "step", "half", "rank", "eigenvalue", "selected_low", "selected_high", "tail_fit"] });
}

// every chart stands in a figure: its words are its text alternative, its numbers can be taken along
const told = new Map();
function tell(id, what) {
  told.set(id, what);
  byId(`${id}-words`).textContent = what.words;
  byId(id).parentElement.querySelectorAll("button").forEach((button) => { button.disabled = !what.rows; });
}
function frame(chart) {
  const figure = document.createElement("figure");
  chart.replaceWith(figure);
  const caption = document.createElement("figcaption");
  const words = caption.appendChild(document.createElement("span"));
  words.id = `${chart.id}-words`;
  for (const [kind, save] of [["CSV", saveRows], ["PNG", savePicture]]) {
    const button = caption.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = kind;
    button.setAttribute("aria-label", `${chart.id} as ${kind}`);
    button.addEventListener("click", () => save(chart.id));
  }
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-labelledby", words.id);
  figure.append(chart, caption);
}
const csvCell = (value) => (value === null || value === undefined ? "" : /[",\n\r]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : String(value));
const csvText = ({ header, rows }) => `${[header, ...rows()].map((row) => row.map(csvCell).join(",")).join("\n")}\n`;
function saveRows(id) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvText(told.get(id))], { type: "text/csv" }));
  link.download = `${id}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function savePicture(id) {
  Plotly.downloadImage(byId(id), { format: "png", filename: id, width: byId(id).clientWidth, height: byId(id).clientHeight, scale: 3 });
}

// each chart is drawn when it first comes near the screen, and again only when what it shows changes
const charts = new Map();
const wait = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (!entry.isIntersecting) return;
  wait.unobserve(entry.target);
  const chart = charts.get(entry.target.id);
  chart.drawn = true;
  chart.draw();
}), { rootMargin: "300px" });
function add(id, drawIt, keys) { if (!byId(id)) return; charts.set(id, { draw: drawIt, keys, drawn: false }); wait.observe(byId(id)); }
function redraw(key) {
  const done = new Set();
  charts.forEach((chart) => {
    if (!chart.drawn || done.has(chart.draw) || (key && !chart.keys.includes(key))) return;
    done.add(chart.draw);
    chart.draw();
  });
}

document.querySelectorAll(".chart").forEach(frame);
fill("head", [...new Set(data.runs.flatMap((run) => run.attention.map(headName)))]);
fill("group", [...new Set(data.runs.flatMap((run) => run.spectra.map(groupName)))]);
add("curve-rare", drawCurves, ["step", "curve-x", "curve-y"]);
const panels = data.panels.filter((panel) => data.runs.some((run) => run.series[panel.name]));
if (!panels.length) byId("panels-note").textContent = "Fewer than three distinct steps are stored; a trajectory needs more.";
panels.forEach((panel) => {
  const div = byId("panels").appendChild(document.createElement("div"));
  div.className = "chart";
  div.id = `panel-${panel.name}`;
  frame(div);
  add(div.id, () => drawPanel(panel), ["x", "y"]);
});
add("sizes-rare", drawSizes, ["x"]);
if (byId("layers")) {
  fill("layer", data.runs[0].layers.calibration.map((c) => c.name));
  add("layers-0", drawLayers, []);
  add("calibration", drawCalibration, ["step", "layer"]);
}
add("map", drawMap, ["map"]);
drawTable();
add("attention-chart", drawAttention, ["step", "attention-y", "head"]);
add("spectra-chart", drawSpectra, ["step", "group"]);
document.querySelectorAll("[data-choice]").forEach((group) => {
  const key = group.dataset.choice;
  group.setAttribute("aria-label", choices[key].name);
  group.append(`${choices[key].name} `);
  const buttons = choices[key].values.map((value, i) => {
    const button = group.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = value;
    button.addEventListener("click", () => {
      state[key] = i;
      press();
      redraw(key);
    });
    return button;
  });
  const press = () => buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === state[key])));
  press();
});
for (const id of ["head", "group", "layer"]) if (byId(id)) byId(id).addEventListener("change", () => redraw(id));
function nameStep() {
  const flawed = data.runs.some((run) => step in run.leftOut);
  byId("step-name").textContent = thousands(step) + (flawed ? " ✕" : "");
  byId("step").setAttribute("aria-valuetext", `step ${thousands(step)}${flawed ? ", left out of trajectories" : ""}`);
}
function showStep(chosenStep) {
  step = chosenStep;
  byId("step").value = allSteps.indexOf(step);
  nameStep();
  drawTable();
  redraw("step");
  moveMarks();
}
let queued = false;
function startSlider(slider) {
  slider.max = allSteps.length - 1;
  slider.value = allSteps.indexOf(step);
  slider.addEventListener("input", () => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      showStep(allSteps[Number(slider.value)]);
    });
  });
  slider.addEventListener("change", () => history.replaceState(null, "", `#step=${allSteps[Number(slider.value)]}`));
  addEventListener("hashchange", () => { const named = stepOf(location.hash); if (named !== undefined) showStep(named); });
  nameStep();
}
if (byId("step")) startSlider(byId("step"));
function nameRuns() {
  if (single) return;
  byId("run-names").replaceChildren(...data.runs.map((run) => {
    const name = document.createElement("span");
    name.textContent = run.label;
    name.style.setProperty("--swatch", shade(run.colour));
    return name;
  }));
}
nameRuns();
dark.addEventListener("change", () => { nameRuns(); redraw(); });
// on paper: light, as wide as a sheet, every chart drawn and everything unfolded
let unfolded = [];
function paper(isPaper) {
  printing = isPaper;
  document.documentElement.classList.toggle("printing", isPaper);
  if (isPaper) unfolded = [...document.querySelectorAll("details:not([open])")];
  unfolded.forEach((part) => { part.open = isPaper; });
  if (isPaper) charts.forEach((chart) => { chart.drawn = true; });
  redraw();
}
addEventListener("beforeprint", () => paper(true));
addEventListener("afterprint", () => paper(false));
