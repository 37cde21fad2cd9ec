// The form above the cards: built from what the data holds, and always showing the state.
const OF_TWO = ["a-right", "b-right", "differ", "some", "a-over-b", "b-over-a"]; // nothing without a B
const form = document.getElementById("controls");

function option(value, text) {
  return make("option", { value }, text);
}

function buildControls() {
  for (const name of ["a", "b"]) form[name].append(...RUNS.map((run) => option(run.number, `${run.number + 1} ${run.label}`)));
  for (const cut of FILTERS) document.getElementById("cuts").append(cutField(cut));
  for (const run of RUNS) {
    const box = make("input", { type: "checkbox", "data-run": run.number });
    box.addEventListener("change", () => toggle(run.number));
    document.getElementById("layers").append(make("label", { class: "layer" }, box, badge(run), make("bdi", {}, run.label)));
  }
  if (RUNS.length < 2) {
    for (const field of [form.b.parentElement, document.getElementById("swap")]) field.hidden = true;
    for (const value of OF_TWO) form.querySelector(`option[value=${value}]`).remove();
  }
  document.getElementById("proposals").parentElement.hidden = !DATA.proposals.length;
  document.getElementById("masks").parentElement.hidden = !DATA.masks.length;
  document.getElementById("attention").parentElement.hidden = !RUNS.some((run) => Object.keys(run.attention).length);
}

function cutField(cut) {
  const counts = new Uint32Array(cut.labels.length);
  for (const place of cut.of) if (place >= 0) counts[place]++;
  const select = make("select", { "data-cut": cut.name }, option("", "any"));
  cut.labels.forEach((label, n) => select.append(option(label, `${label} (${thousands(counts[n])})`)));
  select.addEventListener("change", () => {
    const cuts = { ...state.cuts };
    if (select.value) cuts[cut.name] = select.value;
    else delete cuts[cut.name];
    change({ cuts });
  });
  return make("label", { class: "field" }, cut.name, select);
}

function showControls() {
  for (const name of ["a", "b", "show", "sort"]) form[name].value = String(state[name]);
  if (form.q.value !== state.q) form.q.value = state.q;
  for (const select of form.querySelectorAll("[data-cut]")) select.value = state.cuts[select.dataset.cut] ?? "";
  for (const select of form.querySelectorAll("select")) {
    select.parentElement.classList.toggle("set", select.dataset.cut ? select.value !== "" : select.name === "show" && !sameAsFirst("show"));
  }
  for (const name of ["truth", "masks", "proposals", "attention"]) document.getElementById(name).checked = state[name];
  for (const box of document.querySelectorAll("[data-run]")) box.checked = drawn().has(Number(box.dataset.run));
}

const clear = () => change({ show: "all", q: "", cuts: {} });
const swap = () => change({ a: state.b, b: state.a });

form.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["a", "b"]) form[name].addEventListener("change", () => change({ [name]: Number(form[name].value) }));
for (const name of ["show", "sort"]) form[name].addEventListener("change", () => change({ [name]: form[name].value }));
form.q.addEventListener("input", () => change({ q: form.q.value }));
document.getElementById("swap").addEventListener("click", swap);
for (const id of ["clear", "clear-empty"]) document.getElementById(id).addEventListener("click", clear);
for (const name of ["truth", "masks", "proposals", "attention"]) document.getElementById(name).addEventListener("change", () => change({ [name]: !state[name] }));
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
