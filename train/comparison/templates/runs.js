"use strict";
(() => {
  const main = document.querySelector("main");
  const body = document.querySelector("#runs tbody");
  main.classList.add("alive");

  // Numbers by size, the rest as text; what is not known comes last in both directions.
  const keyOf = (row, column) => { const key = row.cells[column].dataset.key; return key === "" ? null : JSON.parse(key); };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  document.querySelectorAll("#runs thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const turned = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
      const sign = turned ? 1 : -1;
      document.querySelectorAll("#runs thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turned ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, key: keyOf(row, column) }));
      const known = rows.filter(({ key }) => key !== null).sort((a, b) => sign * compare(a.key, b.key));
      body.append(...[...known, ...rows.filter(({ key }) => key === null)].map(({ row }) => row));
    });
  });

  // A run that is picked stands out in every curve; picked again it does not.
  const pick = (element) => {
    const own = [...element.classList].find((name) => /^r\d+$/.test(name));
    const was = body.querySelector(`tr.${own}`).classList.contains("picked");
    document.querySelectorAll(`.${own}`).forEach((part) => part.classList.toggle("picked", !was));
    main.classList.toggle("chosen", body.querySelector(".picked") !== null);
  };
  body.querySelectorAll("tr").forEach((row) => {
    const name = row.cells[0];
    name.tabIndex = 0;
    name.addEventListener("click", () => pick(row));
    name.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(row); });
  });
  document.querySelectorAll(".charts .run").forEach((part) => part.addEventListener("click", () => pick(part)));
})();
