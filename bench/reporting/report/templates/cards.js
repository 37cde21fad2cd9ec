// One page of cards: only these are in the document, however many expressions there are.
const PAGE = 24;
const cards = document.getElementById("cards");
let onPage = [];

const pages = () => Math.max(1, Math.ceil(selection().length / PAGE));

// Shows the page of the state: new cards where others are wanted, new boxes alone where they are the same ones.
function showCards() {
  const matches = selection();
  const page = Math.min(state.page, pages() - 1);
  const wanted = matches.slice(page * PAGE, (page + 1) * PAGE);
  const focused = cards.contains(document.activeElement) ? [...cards.children].findIndex((c) => c.contains(document.activeElement)) : -1;
  if (wanted.length !== onPage.length || wanted.some((i, k) => i !== onPage[k])) {
    onPage = wanted;
    cards.replaceChildren(...wanted.map(card));
    if (focused >= 0) cards.children[Math.min(focused, wanted.length - 1)]?.querySelector("button").focus();
  }
  for (const [k, i] of onPage.entries()) dress(cards.children[k], i);
  document.getElementById("empty").hidden = matches.length > 0;
  document.getElementById("count").replaceChildren(make("b", {}, thousands(matches.length)), ` of ${thousands(COUNT)} expressions`);
  document.getElementById("page").textContent = `page ${thousands(page + 1)} of ${thousands(pages())}`;
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page >= pages() - 1;
}

function card(i) {
  const button = make("button", { type: "button", "aria-label": `Show large: ${DATA.text[i]}` }, scene(i));
  button.addEventListener("click", () => change({ e: i }, { opens: true }));
  const labels = CUTS.filter((cut) => ["kind", "category"].includes(cut.name) && cut.of[i] >= 0).map((cut) => cut.labels[cut.of[i]]);
  const about = make(
    "div",
    { class: "about" },
    make("p", { class: "text", dir: "auto" }, DATA.text[i]),
    make("p", { class: "meta" }, make("bdi", {}, [...labels, DATA.id[i]].join(" · "))),
    make("ul", { class: "chips" }),
  );
  return make("li", { class: "card", "data-id": DATA.id[i] }, button, about);
}

// Boxes and verdicts of the runs that are switched on.
function dress(element, i) {
  const svg = element.querySelector(".scene");
  svg.querySelector(".overlay")?.remove();
  svg.append(overlay(i));
  const visible = RUNS.filter((run) => drawn().has(run.number)).slice(0, 8);
  element.querySelector(".chips").replaceChildren(
    ...visible.map((run) =>
      make(
        "li",
        { title: run.label, class: run.hit[i] ? "hit" : "miss" },
        badge(run),
        make("span", { class: "hidden" }, `${run.label}: `),
        `${verdict(run, i)} ${iouSaid(run, i)}`,
      ),
    ),
  );
}

// Pages on or back; true where there was a page.
function turn(by) {
  const page = Math.min(state.page, pages() - 1) + by;
  if (page < 0 || page >= pages()) return false;
  change({ page });
  if (document.getElementById("gallery").getBoundingClientRect().bottom < 0 || cards.getBoundingClientRect().top < 0 || cards.getBoundingClientRect().top > innerHeight) {
    document.getElementById("controls").scrollIntoView({ block: "start", behavior: "instant" });
  }
  return true;
}
