"use strict";
// Filter and order the samples. The text searched for is kept in the address (#q=…), so that a view can be shared.
for (const section of document.querySelectorAll(".samples")) {
  const find = section.querySelector("input[type=search]");
  const where = section.querySelector("select[name=where]");
  const order = section.querySelector("select[name=order]");
  const n = section.querySelector("select[name=n]"); // only where methods are compared over N
  const count = section.querySelector(".count");
  const list = section.querySelector(".cards");
  const cards = Array.from(list.children);

  const choose = () => {
    for (const column of list.querySelectorAll("[data-n]")) column.hidden = n !== null && column.dataset.n !== n.value;
  };

  const text = (card) => {
    if (where.value === "prompt") return card.querySelector(".prompt").textContent.toLowerCase();
    const shown = [".prompt", ".columns > :not([hidden])"].flatMap((part) => Array.from(card.querySelectorAll(part)));
    return shown.map((part) => part.textContent).join("\n").toLowerCase();
  };

  const filter = () => {
    const wanted = find.value.trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      card.hidden = wanted !== "" && !text(card).includes(wanted);
      shown += card.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${cards.length} prompts`;
  };

  const sort = () => {
    const key = order.value;
    const by = (card) => (key === "given" ? 0 : Number(card.dataset[key.split("-")[0]]));
    const sign = key.endsWith("-low") ? 1 : -1;
    const sorted = cards.slice().sort((a, b) => sign * (by(a) - by(b)));
    list.replaceChildren(...(key === "given" ? cards : sorted));
  };

  const remember = () => {
    const parts = new URLSearchParams();
    if (find.value) parts.set("q", find.value);
    if (where.value !== "anywhere") parts.set("where", where.value);
    if (order.value !== "given") parts.set("order", order.value);
    if (n !== null) parts.set("n", n.value);
    try {
      history.replaceState(null, "", `#${parts}`);
    } catch {
      // Some browsers forbid it for a page opened as a file; the view works all the same.
    }
  };

  const recall = () => {
    const parts = new URLSearchParams(location.hash.slice(1));
    find.value = parts.get("q") || "";
    for (const choice of [where, order, n]) {
      if (choice === null) continue;
      const value = parts.get(choice.name);
      if (Array.from(choice.options).some((option) => option.value === value)) choice.value = value;
    }
  };

  find.addEventListener("input", () => { filter(); remember(); });
  where.addEventListener("change", () => { filter(); remember(); });
  order.addEventListener("change", () => { sort(); remember(); });
  if (n !== null) n.addEventListener("change", () => { choose(); filter(); remember(); });
  section.querySelector(".controls").hidden = false;
  recall();
  choose();
  filter();
  sort();
}
