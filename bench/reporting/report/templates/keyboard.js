// Keys of the whole page, except while somebody types or chooses.
const help = document.getElementById("help");
document.getElementById("help-close").addEventListener("click", () => help.close());

const go = (by) => (state.e >= 0 ? step(by) : turn(by));
const KEYS = {
  j: () => go(1),
  k: () => go(-1),
  ArrowRight: () => go(1),
  ArrowLeft: () => go(-1),
  g: () => change({ truth: !state.truth }),
  p: () => change({ proposals: !state.proposals }),
  o: () => change({ masks: !state.masks }),
  m: () => change({ attention: !state.attention }),
  s: () => swap(),
  "/": () => {
    if (state.e >= 0) detail.close();
    form.q.scrollIntoView({ block: "center", behavior: "instant" });
    form.q.focus();
  },
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("select, textarea, input:not([type=checkbox])");
  if (typing && event.key === "Escape") typing.blur();
  if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey) return;
  // Arrows scroll what is wider than its room; there they are not ours.
  if (event.key.startsWith("Arrow") && event.target.closest?.(".scroll")) return;
  const number = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
  const act = number >= 0 && number < RUNS.length ? () => toggle(number) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
