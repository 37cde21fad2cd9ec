// Which expressions a state shows, in which order: one pass over the columns.
const SHOWN = {
  all: () => true,
  "a-right": (i, a, b) => a.hit[i] && !b.hit[i],
  "b-right": (i, a, b) => b.hit[i] && !a.hit[i],
  differ: (i, a, b) => a.hit[i] !== b.hit[i],
  "a-wrong": (i, a) => !a.hit[i],
  "all-wrong": (i) => RIGHT[i] === 0,
  "all-right": (i) => RIGHT[i] === RUNS.length,
  some: (i) => RIGHT[i] > 0 && RIGHT[i] < RUNS.length,
  "no-box": (i, a) => a.none[i],
};

// Higher comes first; of equals the earlier in the split.
const SORTED = {
  "a-over-b": (a, b) => (i) => a.iou[i] - b.iou[i],
  "b-over-a": (a, b) => (i) => b.iou[i] - a.iou[i],
  "a-low": (a) => (i) => -a.iou[i],
  "a-high": (a) => (i) => a.iou[i],
};

const collator = new Intl.Collator("en", { numeric: true });

// Numbers of the expressions that the filters leave, sorted. The last answer is kept: paging asks again.
let kept = { key: null, matches: null };
function selection() {
  const key = JSON.stringify([state.a, state.b, state.show, state.sort, state.q, state.cuts]);
  if (kept.key !== key) {
    performance.mark("filter");
    kept = { key, matches: select() };
    performance.measure("bench-filter", "filter");
  }
  return kept.matches;
}

function select() {
  const [a, b, test] = [RUNS[state.a], RUNS[state.b], SHOWN[state.show]];
  const cuts = CUTS.filter((cut) => cut.name in state.cuts).map((cut) => [cut.of, cut.labels.indexOf(state.cuts[cut.name])]);
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = words.length ? searchable() : [];
  const matches = [];
  for (let i = 0; i < COUNT; i++) {
    if (!test(i, a, b)) continue;
    if (!cuts.every(([of, label]) => of[i] === label)) continue;
    if (!words.every((word) => texts[i].includes(word))) continue;
    matches.push(i);
  }
  if (state.sort === "id") return matches.sort((i, j) => collator.compare(DATA.id[i], DATA.id[j]) || i - j);
  if (state.sort in SORTED) {
    const value = SORTED[state.sort](a, b);
    matches.sort((i, j) => value(j) - value(i) || i - j);
  }
  return matches;
}
