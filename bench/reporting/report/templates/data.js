// The gallery's columns, parsed once, and their look-ups. An expression is its number in the split.
const DATA = JSON.parse(document.getElementById("gallery-data").textContent);
const COUNT = DATA.id.length;
const RUNS = DATA.runs.map((run, number) => ({
  label: run.label,
  number,
  hit: Uint8Array.from(run.outcome, (letter) => (letter === "1" ? 1 : 0)),
  none: Uint8Array.from(run.outcome, (letter) => (letter === "-" ? 1 : 0)),
  iou: Int16Array.from(run.iou),
  box: run.box,
  attention: run.attention,
  mask: run.mask,
  sets: run.sets, // several boxes an expression, where all of them count
  pool: run.proposals === null ? null : DATA.proposals[run.proposals],
}));
const CUTS = DATA.cuts;
const FILTERS = CUTS.filter((cut) => cut.labels.length > 1); // what has one label alone filters nothing

// How many runs are right about each expression.
const RIGHT = new Uint16Array(COUNT);
for (const run of RUNS) run.hit.forEach((hit, i) => (RIGHT[i] += hit));

// Where the boxes of each image begin in a pool of proposals.
for (const pool of DATA.proposals) {
  pool.start = [0];
  pool.kept.forEach((kept, p) => pool.start.push(pool.start[p] + kept));
}

// Text, id and file in small letters, joined by what no one types; made when somebody first searches.
let searched = null;
function searchable() {
  searched ??= DATA.text.map((text, i) => `${text}\n${DATA.id[i]}\n${DATA.files[DATA.image[i]]}`.toLowerCase());
  return searched;
}

// [left, top, width, height] of the k-th box of a flat list of tenths of pixels.
function rectangle(flat, k) {
  const [x1, y1, x2, y2] = [0, 1, 2, 3].map((n) => flat[4 * k + n] / 10);
  return [x1, y1, x2 - x1, y2 - y1];
}

// Lengths of runs, of 0 and 1 in turn, of a mask in COCO's compressed counts: 5 bits a letter, differences from the
// third on to the one before the last.
function runsOf(counts) {
  const runs = [];
  for (let p = 0; p < counts.length; ) {
    let [value, unit, letter] = [0, 1, 32];
    for (; letter & 32; unit *= 32) {
      letter = counts.charCodeAt(p++) - 48;
      value += (letter & 31) * unit;
    }
    if (letter & 16) value -= unit;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// The path around the runs of a mask, which go down its columns.
function maskPath([height, , counts]) {
  const parts = [];
  let [at, inside] = [0, false];
  for (const run of runsOf(counts)) {
    const end = at + run;
    while (inside && at < end) {
      const length = Math.min(end - at, height - (at % height));
      parts.push(`M${Math.floor(at / height)} ${at % height}v${length}h1v-${length}z`);
      at += length;
    }
    [at, inside] = [end, !inside];
  }
  return parts.join("");
}

// The image as a data URL, or null where there is none.
const images = new Map();
function imageOf(p) {
  if (!images.has(p)) {
    const element = document.getElementById(`image-${p}`);
    images.set(p, element && `data:image/jpeg;base64,${element.textContent}`);
  }
  return images.get(p);
}

// Two decimals, cut and not rounded, so that no miss reads as 0.50.
function iouSaid(run, i) {
  return run.none[i] ? "no box" : (Math.floor(run.iou[i] / 10) / 100).toFixed(2);
}

const verdict = (run, i) => (run.hit[i] ? "✓" : run.none[i] ? "–" : "✗");
const thousands = (n) => n.toLocaleString("en-GB");

// An element with attributes and children; text goes in as text, never as markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function badge(run) {
  return make("span", { class: `badge c${run.number % 6}`, "aria-hidden": "true" }, String(run.number + 1));
}
