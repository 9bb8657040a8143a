import "@fontsource-variable/figtree";
import "@fontsource-variable/fraunces";
import "./style.css";
import { Card } from "./card.js";
import { follow, health } from "./backend.js";
import { clock, date, howLong } from "./time.js";

const page = document.documentElement;
const at = (id) => document.getElementById(id);
const cards = new Map();
let lead = 0; // how far the backend's clock is ahead of this one, in milliseconds

const slug = (name) => name.toLowerCase().replaceAll(/[^\p{L}\p{N}]+/gu, "-");
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

function show({ at: told, cats }) {
  lead = Date.parse(told) - Date.now();
  const gone = new Set(cards.keys());
  for (const cat of cats) {
    gone.delete(cat.id);
    if (!cards.has(cat.id)) {
      const card = new Card(cat);
      cards.set(cat.id, card);
      at("cats").append(card.element);
    }
    cards.get(cat.id).show(cat, `/cats/${slug(cat.name)}`);
  }
  for (const id of gone) {
    cards.get(id).element.remove();
    cards.delete(id);
  }
  const asleep = cats.filter((cat) => cat.asleep).length;
  const treats = cats.reduce((sum, cat) => sum + cat.treats, 0);
  at("summary").textContent = `${asleep} asleep, ${cats.length - asleep} up to something`;
  at("treats").textContent = `${count(treats, "treat", "treats")} handed out`;
  tick();
  choose();
}

// `/cats/mochi` shows Mochi alone; any other path shows everybody.
function choose() {
  const chosen = [...cards.values()].find((card) => card.path === decodeURI(location.pathname));
  at("cats").classList.toggle("alone", chosen !== undefined);
  for (const card of cards.values()) card.element.hidden = chosen !== undefined && card !== chosen;
}

function tick() {
  const now = new Date();
  at("clock").textContent = clock(now);
  at("date").textContent = date(now);
  for (const card of cards.values()) card.age(howLong(now.getTime() + lead - card.since));
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const path = link.pathname === location.pathname ? "/" : link.pathname;
  history.pushState(null, "", path);
  choose();
});
addEventListener("popstate", choose);

follow({
  cats: show,
  state(state) {
    page.dataset.live = state;
    at("live").textContent = state;
  },
});
health((sentence) => (at("health").textContent = sentence));
tick();
setInterval(tick, 1000);
