// The view is a state, and the state is the address: a link to it opens the same view elsewhere.
const FIRST = Object.freeze({ a: 0, b: RUNS.length > 1 ? 1 : 0, show: "all", sort: "split", q: "", page: 0, e: -1, truth: true, masks: true, proposals: false, attention: false });
const offered = (name) => [...document.querySelector(`[name=${name}]`).options].map((option) => option.value);

// cuts: name -> label. on: the numbers of the runs whose boxes are drawn; null means A and B, whoever they are.
let state = { ...FIRST, cuts: {}, on: null };

const drawn = () => state.on ?? new Set([state.a, state.b]);
const sameAsFirst = (name) => state[name] === FIRST[name];

// The address of a state, without what is as it is at first.
function toHash(of) {
  const address = new URLSearchParams();
  if (of.e >= 0) address.set("e", DATA.id[of.e]);
  for (const name of ["a", "b"]) if (of[name] !== FIRST[name]) address.set(name, RUNS[of[name]].label);
  for (const name of ["show", "sort", "q"]) if (of[name] !== FIRST[name]) address.set(name, of[name]);
  for (const [cut, label] of Object.entries(of.cuts)) address.set(`cut.${cut}`, label);
  if (of.page > 0) address.set("page", of.page + 1);
  for (const name of ["truth", "masks"]) if (!of[name]) address.set(name, "0");
  for (const name of ["proposals", "attention"]) if (of[name]) address.set(name, "1");
  if (of.on) {
    if (!of.on.size) address.set("on", "");
    for (const number of [...of.on].sort((x, y) => x - y)) address.append("on", RUNS[number].label);
  }
  const text = address.toString();
  return `#${text || "gallery"}`;
}

// The state of an address; what it names and the report does not hold is left as it is at first.
function fromHash(hash) {
  const address = new URLSearchParams(hash.replace(/^#/, ""));
  const next = { ...FIRST, cuts: {}, on: null };
  const numberOf = (label) => RUNS.findIndex((run) => run.label === label);
  for (const name of ["a", "b"]) if (numberOf(address.get(name)) >= 0) next[name] = numberOf(address.get(name));
  for (const name of ["show", "sort"]) if (offered(name).includes(address.get(name))) next[name] = address.get(name);
  next.q = address.get("q") ?? "";
  for (const cut of FILTERS) if (cut.labels.includes(address.get(`cut.${cut.name}`))) next.cuts[cut.name] = address.get(`cut.${cut.name}`);
  next.page = Math.max(0, (parseInt(address.get("page"), 10) || 1) - 1);
  for (const name of ["truth", "masks"]) next[name] = address.get(name) !== "0";
  for (const name of ["proposals", "attention"]) next[name] = address.get(name) === "1";
  if (address.has("on")) next.on = new Set(address.getAll("on").map(numberOf).filter((n) => n >= 0));
  if (address.has("e")) next.e = DATA.id.indexOf(address.get("e"));
  return next;
}

// Whether an address is one of ours and not that of a part of the page.
const isState = (hash) => /[#&](e|a|b|show|sort|q|cut\.[^=]*|page|truth|masks|proposals|attention|on)=/.test(hash);

// Changes the state, the address and the view. A filter starts at the first page. `opens` makes a step that the
// browser's back button takes back: opening an expression is one, typing a letter is not.
function change(values, { opens = false } = {}) {
  const filters = ["a", "b", "show", "sort", "q", "cuts"].some((name) => name in values);
  state = { ...state, ...(filters ? { page: 0 } : {}), ...values };
  render();
  try {
    history[opens ? "pushState" : "replaceState"](null, "", toHash(state));
  } catch {
    location.replace(toHash(state)); // a browser that lets no file change its own history
  }
}
