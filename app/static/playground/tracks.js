// Two tracks over the same ten digits: votes, where one dot is one pass, and average probabilities.

import { isFlat, rivalOf } from "./words.js";

const MOST_DOTS = 100; // for more passes one dot stands for several
const LEAST_SHARE = 0.02; // of the mean; a class below it is nobody's rival
const LARGEST_DOT = 13; // pixels
const FULL_LINES = 1.2; // how much smaller dots may be for it
const SVG = "http://www.w3.org/2000/svg";
// Pixels around the tracks: axes to the left, counts above the piles, digits below.
const MARGIN = { left: 44, right: 4, top: 17, bottom: 23 };

/**
 * The tracks, and the table of the same numbers for those who do not see them.
 *
 * @param elements `votes` and `chances` (SVGs), `table`, and `legend` (how many passes a dot is).
 * @param onChoose called with the class and the number of its pass, from 0, that was clicked.
 */
export class Tracks {
  constructor(elements, { onChoose }) {
    this.elements = elements;
    this.onChoose = onChoose;
    this.digits = [];
    this.chosen = null;
    const { votes, chances } = elements;
    votes.addEventListener("click", (event) => this.#choose(event));
    for (const svg of [votes, chances]) new ResizeObserver(() => this.#fit()).observe(svg);
  }

  /** Makes a column, and a row of the table, for each class. */
  build(labels) {
    const { votes, chances, table } = this.elements;
    this.axes = { votes: shape("g"), chances: shape("g") };
    this.digits = labels.map((label) => makeDigit(label));
    votes.replaceChildren(this.axes.votes, ...this.digits.map(({ pile }) => pile));
    chances.replaceChildren(this.axes.chances, ...this.digits.map(({ strip }) => strip));
    table.tBodies[0].replaceChildren(...this.digits.map(({ row }) => row));
    this.clear(50);
  }

  /** Empties the tracks for an answer of this number of passes. */
  clear(passes) {
    this.passes = passes;
    this.passesPerDot = Math.ceil(passes / MOST_DOTS);
    this.shown = null;
    this.bands = null;
    this.probs = null;
    this.elements.legend.textContent =
      this.passesPerDot === 1
        ? "one pass, above the digit it says"
        : `${this.passesPerDot} passes, above the digit they say`;
    for (const digit of this.digits) {
      for (const cell of digit.cells) cell.textContent = "";
      digit.number.textContent = "";
      digit.dots.replaceChildren();
      digit.average.replaceChildren();
      digit.band.replaceChildren();
      digit.marks.replaceChildren();
      setRole(digit, "other");
    }
    this.#fit();
  }

  /** Empties the tracks if their dots stand for other numbers of passes. */
  prepare(passes) {
    if (this.passes !== passes) this.clear(passes);
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
    this.shown = answer ?? computed;
    const { votes, mean } = this.shown;
    this.digits.forEach((digit, i) => {
      setRole(digit, i === leader ? "leader" : i === second ? "rival" : "other");
      const [count, average] = digit.cells;
      count.textContent = String(votes[i]);
      average.textContent = mean[i].toFixed(3);
      digit.number.textContent = votes[i] > 0 ? String(votes[i]) : "";
      this.#fill(digit.dots, answer === null ? 0 : votes[i], computed.votes[i]);
    });
    this.bands = null;
    this.#draw();
  }

  /** Adds where eight in ten passes fall. */
  showBands(passProbabilities) {
    this.bands = this.digits.map((digit, i) => {
      const sorted = passProbabilities.map((probs) => probs[i]).sort((a, b) => a - b);
      const [low, high] = [quantile(sorted, 0.1), quantile(sorted, 0.9)];
      digit.cells[2].textContent = `${low.toFixed(2)} to ${high.toFixed(2)}`;
      return [low, high];
    });
    this.#draw();
  }

  /**
   * Marks one pass: its dot, its digit, and its probabilities.
   *
   * @param place class that the pass chose, and its number among the passes that did.
   * @param probs the pass's probabilities; null for its dot alone.
   */
  mark(place, probs) {
    this.elements.votes.querySelector("circle.chosen")?.classList.remove("chosen");
    this.probs = probs;
    this.digits.forEach((digit, i) => setChosen(digit, probs !== null && i === place.digit));
    if (place !== null) {
      const dots = this.digits[place.digit].dots.children;
      dots[Math.floor(place.number / this.passesPerDot)]?.classList.add("chosen");
    }
    this.#draw();
  }

  // Where things are

  /** Measures the tracks, and draws them anew. */
  #fit() {
    const { votes, chances } = this.elements;
    const width = votes.clientWidth;
    if (width === 0 || this.digits.length === 0) return;
    this.columnWidth = (width - MARGIN.left - MARGIN.right) / this.digits.length;
    this.votesBase = votes.clientHeight - MARGIN.bottom;
    this.chancesBase = chances.clientHeight - MARGIN.bottom;
    const slots = Math.ceil(this.passes / this.passesPerDot);
    const room = { width: 0.92 * this.columnWidth, height: this.votesBase - MARGIN.top };
    Object.assign(this, fitDots(slots, room));
    votes.style.setProperty("--size", `${this.dotSize * 0.43}px`);
    this.#drawAxes(width);
    this.digits.forEach(({ pile, strip, dots }, i) => {
      for (const [group, base] of [[pile, this.votesBase], [strip, this.chancesBase]]) {
        move(group.querySelector(".label"), this.#middle(i), base + 18);
      }
      [...dots.children].forEach((dot, number) => this.#placeDot(dot, number));
      dots.setAttribute("transform", `translate(${this.#middle(i)} ${this.votesBase})`);
    });
    if (this.shown !== null) this.#draw();
  }

  #middle(i) {
    return MARGIN.left + (i + 0.5) * this.columnWidth;
  }

  /** The height of a number of passes in the pile. */
  #countY(passes) {
    return this.votesBase - (passes / this.passesPerDot / this.dotsPerLine) * this.dotSize;
  }

  #chanceY(probability) {
    const room = this.chancesBase - MARGIN.top / 2;
    return this.chancesBase - Math.min(Math.max(probability, 0), 1) * room;
  }

  #drawAxes(width) {
    const axis = (y, text) => {
      const line = shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y });
      const label = shape("text", { class: "scale", x: MARGIN.left - 6, y: y + 4 });
      label.textContent = text;
      return [line, label];
    };
    const title = (text, base) => {
      const label = shape("text", { class: "axis", transform: `translate(11 ${base / 2 + 4}) rotate(-90)` });
      label.textContent = text;
      return label;
    };
    const half = this.passes / 2;
    const counts = [0, ...(this.passes % 2 === 0 ? [half] : []), this.passes];
    this.axes.votes.replaceChildren(
      ...counts.flatMap((count) => axis(this.#countY(count), String(count))),
      title("passes", this.votesBase + MARGIN.top),
    );
    this.axes.chances.replaceChildren(
      ...[0, 0.5, 1].flatMap((chance) => axis(this.#chanceY(chance), String(chance))),
      title("probability", this.chancesBase),
    );
  }

  #draw() {
    if (this.shown === null || this.columnWidth === undefined) return;
    const { mean, standard_error: error } = this.shown;
    this.digits.forEach(({ number, dots, average, band, marks }, i) => {
      const x = this.#middle(i);
      const lines = Math.ceil(dots.childElementCount / this.dotsPerLine);
      move(number, x, this.votesBase - lines * this.dotSize - 4);
      const reach = Math.min(0.3 * this.columnWidth, 18);
      average.replaceChildren();
      if (error !== null) {
        const [low, high] = [-2, 2].map((times) => this.#chanceY(mean[i] + times * error[i]));
        average.append(shape("line", { class: "whisker", x1: x, x2: x, y1: low, y2: high }));
      }
      const y = this.#chanceY(mean[i]);
      average.append(shape("line", { class: "tick", x1: x - reach, x2: x + reach, y1: y, y2: y }));
      band.replaceChildren();
      if (this.bands !== null) {
        const [bottom, top] = this.bands[i].map((probability) => this.#chanceY(probability));
        const box = { x: x - reach * 0.7, width: reach * 1.4, y: top, height: bottom - top };
        band.append(shape("rect", { class: "band", ...box }));
      }
      marks.replaceChildren();
      if (this.probs !== null) {
        const at = `translate(${x} ${this.#chanceY(this.probs[i])})`;
        marks.append(shape("path", { class: "mark", transform: at, d: "M0-4 4 0 0 4-4 0z" }));
      }
    });
  }

  #fill(group, played, computed) {
    const [solid, dots] = [played, Math.max(played, computed)].map((passes) =>
      Math.ceil(passes / this.passesPerDot),
    );
    while (group.childElementCount > dots) group.lastElementChild.remove();
    for (let i = group.childElementCount; i < dots; i += 1) {
      const dot = shape("circle");
      this.#placeDot(dot, i);
      group.append(dot);
    }
    [...group.children].forEach((dot, i) => dot.classList.toggle("pale", i >= solid));
  }

  /** Where a dot lies, from the foot of its pile: each line is filled from its middle. */
  #offsetOf(number) {
    const [line, place] = [Math.floor(number / this.dotsPerLine), number % this.dotsPerLine];
    const isEven = this.dotsPerLine % 2 === 0;
    const steps = isEven ? Math.floor(place / 2) + 0.5 : Math.ceil(place / 2);
    const across = place % 2 === 0 ? -steps : steps;
    return { x: across * this.dotSize, y: (line + 0.5) * this.dotSize };
  }

  #placeDot(dot, number) {
    const { x, y } = this.#offsetOf(number);
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", -y);
  }

  /** A dot is small for a finger: the nearest one in the column is meant. */
  #choose(event) {
    const box = this.elements.votes.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, this.votesBase - (event.clientY - box.top)];
    const digit = Math.floor((x - MARGIN.left) / this.columnWidth);
    const count = this.digits[digit]?.dots.childElementCount ?? 0;
    const distances = Array.from({ length: count }, (_, number) => {
      const at = this.#offsetOf(number);
      return Math.hypot(this.#middle(digit) + at.x - x, at.y - y);
    });
    const nearest = Math.min(...distances);
    if (nearest > LARGEST_DOT) return;
    this.onChoose(digit, distances.indexOf(nearest) * this.passesPerDot);
  }
}

/** How many dots in a line make them large, so that all of them fit into one pile. */
function fitDots(slots, { width, height }) {
  let best = { dotsPerLine: 1, dotSize: 0, worth: 0 };
  for (let dotsPerLine = 1; dotsPerLine <= 12; dotsPerLine += 1) {
    const lines = Math.ceil(slots / dotsPerLine);
    const dotSize = Math.min(width / dotsPerLine, height / lines, LARGEST_DOT);
    // Rather a little smaller than a last line that is not full: the axis counts them.
    const worth = slots % dotsPerLine === 0 ? FULL_LINES * dotSize : dotSize;
    if (worth > best.worth) best = { dotsPerLine, dotSize, worth };
  }
  return best;
}

/** What shows a class: its pile, its place in the strip, its row of the table. */
function makeDigit(label) {
  const text = (className, content = "") => {
    const element = shape("text", { class: className });
    element.textContent = content;
    return element;
  };
  const [dots, average, band, marks] = ["dots", "average", "", "marks"].map((name) =>
    shape("g", { class: name }),
  );
  const [pile, strip] = [shape("g"), shape("g")];
  const number = text("number");
  pile.append(text("label", label), dots, number);
  strip.append(text("label", label), band, average, marks);
  const row = document.createElement("tr");
  const name = Object.assign(document.createElement("th"), { scope: "row", textContent: label });
  const cells = ["count", "", ""].map((className) =>
    Object.assign(document.createElement("td"), { className }),
  );
  row.append(name, ...cells);
  return { pile, strip, row, dots, number, average, band, marks, cells };
}

function setRole({ pile, strip, row }, role) {
  for (const element of [pile, strip, row]) element.setAttribute("class", role);
}

function setChosen({ pile, strip, row }, isChosen) {
  for (const element of [pile, strip, row]) element.classList.toggle("chosen", isChosen);
}

/** The answer's class and its rival, -1 where there is none: the classes that the words name. */
function leadersOf(answer) {
  // Of several digits the passes read one, and which is chance: none may look like the answer.
  if (isFlat(answer) || answer.decision?.reason === "several_digits") return [-1, -1];
  const rival = rivalOf(answer);
  const isClose = answer.votes[rival] > 0 || answer.mean[rival] >= LEAST_SHARE;
  return [answer.digit, isClose ? rival : -1];
}

/** The value below which a share of sorted values lies, linear between neighbours. */
function quantile(sorted, share) {
  const position = share * (sorted.length - 1);
  const low = Math.floor(position);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (position - low) * (sorted[high] - sorted[low]);
}

function move(element, x, y) {
  element.setAttribute("transform", `translate(${x} ${y})`); // other moves count as shifts
}

export function shape(kind, attributes = {}) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
