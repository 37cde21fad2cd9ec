// An image with boxes over it, as SVG in the image's own pixels.
const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The image of expression i, or a blank frame that says why there is none.
function scene(i) {
  const p = DATA.image[i];
  const [width, height] = [DATA.sizes[2 * p], DATA.sizes[2 * p + 1]];
  const svg = shape("svg", { class: "scene", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMidYMid meet", role: "img", "aria-label": described(i) });
  const source = imageOf(p);
  if (source) {
    svg.append(shape("image", { href: source, width, height, preserveAspectRatio: "none" }));
  } else {
    svg.append(shape("rect", { class: "blank", width, height }));
    const size = Math.min(width, height) / 16;
    svg.append(shape("text", { class: "blank-text", x: width / 2, y: height - size, "font-size": size, "text-anchor": "middle" }, "no image"), shape("title", {}, DATA.why[p] ?? ""));
  }
  return svg;
}

// What an image of expression i shows, in words.
function described(i) {
  return `${DATA.files[DATA.image[i]]} with the boxes of: ${DATA.text[i]}`;
}

// The boxes that are switched on. Tags are measured in a part of the image's smaller side: `parts` of them.
function overlay(i, parts = 115) {
  const p = DATA.image[i];
  const unit = Math.min(DATA.sizes[2 * p], DATA.sizes[2 * p + 1]) / parts;
  const limit = 14 * unit; // a side of which the frame would be a large part
  const layer = shape("g", { class: "overlay" });
  const on = RUNS.filter((run) => drawn().has(run.number));
  if (state.attention) {
    for (const map of on.map((run) => run.attention[i]).filter(Boolean)) layer.append(heat(map, DATA.sizes[2 * p], DATA.sizes[2 * p + 1]));
  }
  if (state.masks) {
    if (state.truth && i in DATA.mask) layer.append(shape("path", { class: "mask truth", d: maskPath(DATA.masks[DATA.mask[i]]) }));
    for (const run of on) if (i in run.mask) layer.append(shape("path", { class: `mask p${run.number % 6}`, d: maskPath(DATA.masks[run.mask[i]]) }));
  }
  if (state.proposals) {
    for (const pool of new Set(on.map((run) => run.pool).filter(Boolean))) {
      for (let k = pool.start[p]; k < pool.start[p + 1]; k++) layer.append(framed("pool", rectangle(pool.box, k), 0));
    }
  }
  if (state.truth) {
    const also = DATA.also[i] ?? [];
    for (let k = 0; k < also.length / 4; k++) layer.append(framed("truth also", rectangle(also, k), limit));
    const [x, y, width, height] = rectangle(DATA.box, i);
    if (width || height) layer.append(framed("truth", [x, y, width, height], limit)); // else it refers to nothing
  }
  const tags = [];
  for (const run of on) {
    if (run.none[i]) continue;
    const flat = run.sets ? (run.sets[i] ?? []) : run.box.slice(4 * i, 4 * i + 4);
    const dashes = (run.number + Math.floor(run.number / 6)) % 6;
    for (let k = 0; k < flat.length / 4; k++) {
      const box = rectangle(flat, k);
      layer.append(framed(`answer p${run.number % 6} d${dashes}`, box, limit, run.label));
      tags.push([run, box]);
    }
  }
  const taken = [];
  for (const [run, box] of tags) layer.append(tag(run, box, unit, taken, DATA.sizes[2 * p], DATA.sizes[2 * p + 1]));
  return layer;
}

// An attention map over the whole image, the more opaque the more attention went there; a letter of base64 is a level.
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
function heat([rows, columns, cells], width, height) {
  const canvas = make("canvas", { width: columns, height: rows });
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(columns, rows);
  for (let k = 0; k < cells.length; k++) pixels.data.set([255, 120, 0, LETTERS.indexOf(cells[k]) * 3], 4 * k);
  pen.putImageData(pixels, 0, 0);
  return shape("image", { class: "heat", href: canvas.toDataURL(), width, height, preserveAspectRatio: "none" });
}

// A box twice, dark and wide beneath, so that it is visible on any image; thinner where a side is below `limit`.
function framed(kind, [x, y, width, height], limit, name) {
  const place = { x, y, width: Math.max(0, width), height: Math.max(0, height) };
  const group = shape("g", { class: Math.min(width, height) < limit ? `${kind} small` : kind }, shape("rect", { class: "line casing", ...place }), shape("rect", { class: "line own", ...place }));
  if (name) group.append(shape("title", {}, name));
  return group;
}

// A run's number outside a corner of its box where the image has room, else inside; where one is taken, at another.
function tag(run, [x, y, width, height], unit, taken, most, lowest) {
  const digits = String(run.number + 1);
  const [w, h] = [unit * (5 + 4.2 * digits.length), unit * 9];
  const [right, above, below] = [x + width - w, y - h, y + height];
  const corners = [[x, above], [right, above], [x, below], [right, below], [x, y], [right, y], [x, below - h], [right, below - h]];
  const inside = corners.map(([left, top]) => [Math.min(Math.max(left, 0), most - w), Math.min(Math.max(top, 0), lowest - h)]);
  const free = ([left, top]) => taken.every(([l, t]) => Math.abs(l - left) >= w * 0.9 || Math.abs(t - top) >= h * 0.9);
  const [left, top] = inside.find(free) ?? inside[0];
  taken.push([left, top]);
  return shape(
    "g",
    { class: `tag p${run.number % 6}` },
    shape("rect", { x: left, y: top, width: w, height: h, rx: unit }),
    shape("text", { x: left + w / 2, y: top + h * 0.8, "font-size": h * 0.82, "text-anchor": "middle" }, digits),
  );
}
