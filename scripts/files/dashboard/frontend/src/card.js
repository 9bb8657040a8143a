import { kitten } from "./kitten.js";
import { kimonos } from "./kimonos.js";

// One cat on the page: made once, then only what changed is touched, so that nothing flickers.
export class Card {
  constructor({ kimono }) {
    this.element = document.createElement("a");
    this.element.className = "card";
    this.element.innerHTML = `
      <div class="words">
        <h2></h2>
        <p class="spot"></p>
        <p class="state"></p>
        <p class="treats"></p>
      </div>
      <div class="portrait"></div>`;
    this.part = (name) => this.element.querySelector(name);
    const { ground, fabric } = kimonos[kimono] ?? kimonos.seigaiha;
    this.element.style.setProperty("--cloth-ground", ground);
    this.element.style.setProperty("--fabric", fabric);
  }

  show(cat, path) {
    const looks = `${cat.coat} ${cat.kimono} ${cat.asleep}`;
    if (looks !== this.looks) this.part(".portrait").innerHTML = kitten(cat);
    this.looks = looks;
    this.path = path;
    this.since = Date.parse(cat.since);
    this.asleep = cat.asleep;
    this.element.href = path;
    this.element.classList.toggle("asleep", cat.asleep);
    this.part("h2").textContent = cat.name;
    this.part(".spot").textContent = cat.spot;
    this.part(".treats").textContent = "●".repeat(Math.min(cat.treats, 10));
    this.part(".treats").title = `treats today: ${cat.treats}`;
  }

  age(howLong) {
    this.part(".state").textContent = `${this.asleep ? "asleep" : "awake"} for ${howLong}`;
  }
}
