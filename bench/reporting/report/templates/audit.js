// One doubtful label at a time: keys flag it, and the flags are kept in this browser until they are saved as a file.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (name) => document.getElementById(name);
const SVG = "http://www.w3.org/2000/svg";
const store = "bench-flags " + data.fingerprint;
let at = 0;
let flags = {};

function kept() {
  try {
    const value = JSON.parse(localStorage.getItem(store) || "{}");
    const known = new Set(data.items.map((item) => item.id));
    return Object.fromEntries(Object.entries(value).filter(([id, flag]) => known.has(id) && typeof flag === "string"));
  } catch {
    return {}; // no storage for a local file, or not ours: flags last as long as the page
  }
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function show() {
  const item = data.items[at];
  const [width, height] = item.size;
  const view = element("view");
  view.replaceChildren();
  view.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const image = data.images[item.image];
  if (image) view.append(shape("image", { href: "data:image/jpeg;base64," + image, width, height }));
  element("legend").replaceChildren();
  for (const [kind, label, box] of item.boxes) {
    if (box) view.append(shape("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], class: kind }));
    const line = document.createElement("li");
    line.className = kind;
    line.textContent = box ? label : label + ": no box";
    element("legend").append(line);
  }
  element("text").textContent = item.text;
  element("why").textContent = item.why;
  element("number").textContent = `${at + 1} of ${data.items.length}`;
  const flag = flags[item.id];
  const count = Object.keys(flags).length;
  const words = { ok: "You flagged this label as right.", doubtful: "You flagged this label as doubtful." };
  element("status").textContent = `${words[flag] || "No flag yet."} ${count} of ${data.items.length} have a flag.`;
  element("status").dataset.flag = flag || "";
}

function set(flag) {
  if (flag) flags[data.items[at].id] = flag;
  else delete flags[data.items[at].id];
  try {
    localStorage.setItem(store, JSON.stringify(flags));
  } catch {
    // kept() says why
  }
  if (flag && at < data.items.length - 1) at += 1;
}

function save() {
  const ordered = Object.fromEntries(data.items.filter((item) => flags[item.id]).map((item) => [item.id, flags[item.id]]));
  const file = { format: data.format, version: data.version, split: data.split, fingerprint: data.fingerprint, source: "bench audit", flags: ordered };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
  link.download = "flags.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function act(key) {
  if (key === "a") set("ok");
  else if (key === "r") set("doubtful");
  else if (key === "u") set("");
  else if (key === "s") save();
  else if (key === "ArrowLeft") at = Math.max(0, at - 1);
  else if (key === "ArrowRight") at = Math.min(data.items.length - 1, at + 1);
  else return false;
  show();
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (act(event.key.length === 1 ? event.key.toLowerCase() : event.key)) event.preventDefault();
});
for (const button of document.querySelectorAll("button[data-key]")) {
  button.addEventListener("click", () => act(button.dataset.key));
}
flags = kept();
if (data.items.length) show();
