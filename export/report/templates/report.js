"use strict";
(() => {
  const queries = [...document.querySelectorAll(".query")];
  const buttons = [...document.querySelectorAll("[data-query]")];
  const show = (number) => {
    queries.forEach((query, at) => { query.hidden = at !== number; });
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === number)));
  };
  buttons.forEach((button, at) => button.addEventListener("click", () => show(at)));
  if (queries.length) show(0);

  // A track stands out in both rankings of its query.
  document.querySelectorAll(".rankings li").forEach((item) => item.addEventListener("click", () => {
    const picked = !item.classList.contains("picked");
    item.closest(".rankings").querySelectorAll("li").forEach((other) =>
      other.classList.toggle("picked", picked && other.dataset.track === item.dataset.track));
  }));

  // Fingers do not hover: a tap picks the nearest pair of the map.
  const map = document.querySelector("#map svg");
  if (!map) return;
  const pairs = [...map.querySelectorAll(".pair")].map((pair) => ({ pair, at: pair.dataset.at.split(" ").map(Number) }));
  map.addEventListener("click", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    const gap = ({ at }) => Math.min(Math.hypot(point.x - at[0], point.y - at[1]), Math.hypot(point.x - at[2], point.y - at[3]));
    const nearest = pairs.reduce((best, pair) => (gap(pair) < gap(best) ? pair : best));
    pairs.forEach(({ pair }) => pair.classList.toggle("picked", pair === nearest.pair));
    document.querySelector("#map-title").textContent = nearest.pair.querySelector("title").textContent;
  });
})();
