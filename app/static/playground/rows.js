// Ten rows of dots: one dot is one pass, in the row of the class that it chose.

import { isFlat, rivalOf } from "./words.js";

const MOST_DOTS = 100; // for more passes one dot stands for several
const LEAST_SHARE = 0.02; // of the mean; a class below it is nobody's rival
const LEAST_SEEN = 0.004; // of the mean; less would only thicken the axis
const SVG = "http://www.w3.org/2000/svg";

/** The table of the passes. Every row has the same axis: dots and probabilities fill it at 1. */
export class Rows {
  /**
   * @param legend says how many passes a dot stands for.
   * @param onChoose called with the class and the number of its pass, from 0, that was clicked.
   */
  constructor(table, { legend, onChoose }) {
    this.table = table;
    this.legend = legend;
    this.onChoose = onChoose;
    this.rows = [];
    this.passesPerDot = 1;
  }

  /** Makes the rows. */
  build(labels) {
    this.rows = labels.map((label, digit) => this.#buildRow(label, digit));
    this.table.tBodies[0].replaceChildren(...this.rows.map(({ row }) => row));
    this.clear(50);
  }

  /** Empties the rows for an answer of this number of passes. */
  clear(passes) {
    this.passesPerDot = Math.ceil(passes / MOST_DOTS);
    this.slots = Math.ceil(passes / this.passesPerDot);
    this.table.style.setProperty("--slots", this.slots);
    this.legend.textContent =
      this.passesPerDot === 1
        ? "one pass in the row of its best digit"
        : `${this.passesPerDot} passes in the row of their best digit`;
    for (const row of this.rows) {
      row.row.className = "other";
      row.count.textContent = row.average.textContent = row.band.textContent = "";
      row.dots.replaceChildren();
      row.extras.replaceChildren();
    }
  }

  /** Empties the rows if their dots stand for other numbers of passes. */
  prepare(passes) {
    const passesPerDot = Math.ceil(passes / MOST_DOTS);
    if (this.slots !== Math.ceil(passes / passesPerDot)) this.clear(passes);
  }

  /**
   * Shows an estimate or an answer.
   *
   * @param answer what is known.
   * @param computed the answer with the passes that are computed and not yet played: their dots
   *   stand there, pale. While the pen moves that is all of them.
   */
  show(answer, computed = answer) {
    const [leader, second] = leadersOf(computed);
    const isPlayed = answer !== null;
    const numbers = answer ?? computed;
    this.rows.forEach((row, digit) => {
      const votes = numbers.votes[digit];
      const role = digit === leader ? "leader" : digit === second ? "rival" : "other";
      row.row.className = computed.votes[digit] === 0 && role === "other" ? "other none" : role;
      row.count.textContent = String(votes);
      row.average.textContent = numbers.mean[digit].toFixed(3);
      this.#fill(row.dots, isPlayed ? votes : 0, computed.votes[digit]);
      row.extras.replaceChildren(...averageShapes(numbers, digit));
    });
  }

  /** Adds where eight in ten passes fall. */
  showBands(passProbabilities) {
    this.rows.forEach((row, digit) => {
      const sorted = passProbabilities.map((probs) => probs[digit]).sort((a, b) => a - b);
      const [low, high] = [quantile(sorted, 0.1), quantile(sorted, 0.9)];
      row.band.textContent = `${low.toFixed(2)} to ${high.toFixed(2)}`;
      const x = `${100 * low}%`;
      const width = `${100 * (high - low)}%`;
      row.extras.prepend(shape("rect", { class: "band", x, width, y: "68%", height: "22%" }));
    });
  }

  /**
   * Marks one pass: its dot, its row, and its probabilities.
   *
   * @param place class that the pass chose, and its number among the passes that did.
   * @param probs the pass's probabilities; null for its dot alone.
   */
  mark(place, probs) {
    for (const row of this.rows) {
      row.row.classList.remove("chosen");
      row.marks.replaceChildren();
      row.dots.querySelector(".chosen")?.classList.remove("chosen");
    }
    if (place === null) return;
    const { row, dots } = this.rows[place.digit];
    dots.children[Math.floor(place.number / this.passesPerDot)]?.classList.add("chosen");
    row.classList.toggle("chosen", probs !== null);
    probs?.forEach((probability, digit) => {
      const mark = shape("svg", { x: `${100 * probability}%`, y: "79%" });
      mark.append(shape("path", { class: "mark", d: "M0-4.5 4.5 0 0 4.5-4.5 0z" }));
      this.rows[digit].marks.replaceChildren(mark);
    });
  }

  #fill(group, played, computed) {
    const [solid, dots] = [played, Math.max(played, computed)].map((passes) =>
      Math.ceil(passes / this.passesPerDot),
    );
    while (group.childElementCount > dots) group.lastElementChild.remove();
    for (let i = group.childElementCount; i < dots; i += 1) {
      group.append(shape("circle", { cx: `${((i + 0.5) / this.slots) * 100}%`, cy: "36%" }));
    }
    [...group.children].forEach((dot, i) => dot.classList.toggle("pale", i >= solid));
  }

  #buildRow(label, digit) {
    const row = document.createElement("tr");
    const name = Object.assign(document.createElement("th"), { scope: "row", textContent: label });
    const cell = Object.assign(document.createElement("td"), { className: "pile" });
    const drawing = shape("svg", { "aria-hidden": "true" });
    const [extras, dots, marks] = [shape("g"), shape("g", { class: "dots" }), shape("g")];
    drawing.append(extras, dots, marks);
    drawing.addEventListener("click", (event) => {
      const box = drawing.getBoundingClientRect();
      const dot = Math.floor(((event.clientX - box.left) / box.width) * this.slots);
      if (dot < dots.childElementCount) this.onChoose(digit, dot * this.passesPerDot);
    });
    cell.append(drawing);
    const [count, average, band] = ["count", "hidden", "hidden"].map((className) =>
      Object.assign(document.createElement("td"), { className }),
    );
    row.append(name, cell, count, average, band);
    return { row, count, average, band, extras, dots, marks };
  }
}

/** The answer's class and its rival, -1 where there is none: the classes that the words name. */
function leadersOf(answer) {
  if (isFlat(answer)) return [-1, -1];
  const rival = rivalOf(answer);
  const isClose = answer.votes[rival] > 0 || answer.mean[rival] >= LEAST_SHARE;
  return [answer.digit, isClose ? rival : -1];
}

/** The average, with two standard errors to each side. */
function averageShapes({ mean, standard_error: error }, digit) {
  const at = (value) => `${100 * Math.min(Math.max(value, 0), 1)}%`;
  const tick = { class: "tick", x1: at(mean[digit]), x2: at(mean[digit]), y1: "62%", y2: "96%" };
  if (mean[digit] < LEAST_SEEN) return [];
  const shapes = [shape("line", tick)];
  if (error !== null) {
    const [low, high] = [-2, 2].map((times) => at(mean[digit] + times * error[digit]));
    shapes.unshift(shape("line", { class: "whisker", x1: low, x2: high, y1: "79%", y2: "79%" }));
  }
  return shapes;
}

/** The value below which a share of sorted values lies, linear between neighbours. */
function quantile(sorted, share) {
  const position = share * (sorted.length - 1);
  const low = Math.floor(position);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (position - low) * (sorted[high] - sorted[low]);
}

export function shape(kind, attributes = {}) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
