// Light and dark, and the first look.
function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  for (const button of document.querySelectorAll("[data-theme]:is(button)")) button.setAttribute("aria-pressed", String(button.dataset.theme === name));
  try {
    localStorage.setItem("bench-theme", name);
  } catch {} // some browsers give a file no storage
}

function storedTheme() {
  try {
    return localStorage.getItem("bench-theme") ?? "";
  } catch {
    return "";
  }
}

function render() {
  showControls();
  showCards();
  showDetail();
}

// Links of the page and the back button come with another address.
function follow() {
  if (!isState(location.hash) && state.e < 0) return; // a part of the page, which the browser goes to itself
  state = isState(location.hash) ? fromHash(location.hash) : { ...state, e: -1 };
  render();
  if (isState(location.hash)) document.getElementById("gallery").scrollIntoView({ behavior: "instant" });
}

for (const button of document.querySelectorAll("[data-theme]:is(button)")) button.addEventListener("click", () => setTheme(button.dataset.theme));
setTheme(storedTheme());
buildControls();
const hints = new ResizeObserver((seen) => seen.forEach(({ target }) => target.classList.toggle("more", target.scrollWidth > target.clientWidth + 1)));
for (const box of document.querySelectorAll(".scroll")) hints.observe(box);
addEventListener("popstate", follow);
if (isState(location.hash)) follow();
else render();
document.documentElement.dataset.ready = "";
