// The large view of one expression, with what every pipeline answered.
const detail = document.getElementById("detail");
let large = -1;

function showDetail() {
  const i = state.e;
  if (i < 0) {
    if (detail.open) detail.close();
    large = -1;
    return;
  }
  if (!detail.open) {
    detail.showModal();
    document.getElementById("detail-next").focus();
  }
  const stage = document.getElementById("stage");
  if (large !== i) {
    large = i;
    stage.replaceChildren(scene(i));
    document.getElementById("detail-text").textContent = DATA.text[i];
    document.getElementById("detail-facts").replaceChildren(...facts(i));
  }
  stage.querySelector(".overlay")?.remove();
  stage.querySelector(".scene").append(overlay(i, innerWidth < 900 ? 115 : 240));
  listAnswers(i);
  const [matches, place] = [selection(), selection().indexOf(i)];
  document.getElementById("detail-place").textContent = place < 0 ? "outside the filter" : `${thousands(place + 1)} of ${thousands(matches.length)}`;
  document.getElementById("detail-previous").disabled = place <= 0;
  document.getElementById("detail-next").disabled = place >= matches.length - 1;
  document.getElementById("detail-link").setAttribute("href", toHash(state));
}

function facts(i) {
  const p = DATA.image[i];
  const pairs = [["id", DATA.id[i]], ["image", DATA.files[p]]];
  if (imageOf(p)) pairs.push(["size", `${DATA.sizes[2 * p]} × ${DATA.sizes[2 * p + 1]}`]); // else that of a frame around the boxes
  if (DATA.why[p]) pairs.push(["no image", DATA.why[p]]);
  for (const cut of CUTS) if (cut.of[i] >= 0) pairs.push([cut.name, cut.labels[cut.of[i]]]);
  pairs.push(["right", `${RIGHT[i]} of ${RUNS.length} pipelines`]);
  return pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, make("bdi", {}, String(value)))]);
}

// One row a pipeline; the rows are kept while they are the same, so that the keyboard does not lose its place.
function listAnswers(i) {
  const body = document.getElementById("detail-runs");
  if (!body.children.length) body.append(...RUNS.map(answerRow));
  for (const [number, run] of RUNS.entries()) {
    const row = body.children[number];
    row.querySelector("input").checked = drawn().has(number);
    row.cells[2].textContent = iouSaid(run, i);
    row.cells[3].textContent = verdict(run, i);
    row.cells[3].className = run.hit[i] ? "hit" : "miss";
    row.cells[3].setAttribute("aria-label", run.hit[i] ? "right" : "wrong");
  }
}

function answerRow(run) {
  const box = make("input", { type: "checkbox", "aria-label": `Draw ${run.label}` });
  box.addEventListener("change", () => toggle(run.number));
  const name = make("td", {}, badge(run), make("bdi", {}, run.label));
  return make("tr", {}, make("td", {}, box), name, make("td", { class: "num" }), make("td"));
}

// On or back among the expressions of the filter.
function step(by) {
  const matches = selection();
  const place = matches.indexOf(state.e);
  const next = place < 0 ? 0 : place + by;
  if (next < 0 || next >= matches.length) return;
  change({ e: matches[next], page: Math.floor(next / PAGE) });
}

function toggle(number) {
  const on = new Set(drawn());
  if (!on.delete(number)) on.add(number);
  change({ on });
}

detail.addEventListener("close", () => {
  if (state.e < 0) return;
  const i = state.e;
  change({ e: -1 });
  [...cards.children][onPage.indexOf(i)]?.querySelector("button").focus();
});
document.getElementById("detail-close").addEventListener("click", () => detail.close());
document.getElementById("detail-previous").addEventListener("click", () => step(-1));
document.getElementById("detail-next").addEventListener("click", () => step(1));
document.getElementById("detail-link").addEventListener("click", (event) => {
  event.preventDefault();
  navigator.clipboard?.writeText(location.href).then(() => (event.target.textContent = "Link copied"), () => {});
});
