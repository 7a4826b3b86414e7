// How it works, in four steps; their figures show the answer and the pass that are on the page.

import { shape } from "./tracks.js";

const HEIGHT = 96; // of a figure, in its own units
const DOT = 3; // between the neurons of a figure

/**
 * The four figures.
 *
 * @param elements `network`, `off`, `pass`, `passes` (SVGs), `offText`, `passText`, `passesText`.
 */
export class Lesson {
  constructor(elements) {
    this.elements = elements;
  }

  /** Draws the network, twice: whole, and for what is off. */
  build(layerSizes, labels) {
    this.labels = labels;
    const { network, off } = this.elements;
    drawNetwork(network, layerSizes)([]);
    this.showOff = drawNetwork(off, layerSizes);
    this.clear();
  }

  clear() {
    const { offText, passText, passesText, pass, passes } = this.elements;
    offText.textContent = passText.textContent = passesText.textContent = "";
    if (this.labels === undefined) return;
    this.showOff([]);
    drawBars(pass, this.labels, []);
    drawBars(passes, this.labels, []);
  }

  /** Shows a pass: what was off, and what was left says. */
  showPass({ index, probs, isOff, place }) {
    const { offText, passText, pass } = this.elements;
    this.showOff(isOff);
    const off = isOff.filter(Boolean).length;
    offText.textContent = `In pass ${index + 1}, ${off} of ${isOff.length} were off.`;
    drawBars(pass, this.labels, probs.map((mean) => ({ mean })), place.digit);
    const [label, share] = [this.labels[place.digit], probs[place.digit].toFixed(2)];
    passText.textContent = `Pass ${index + 1} says ${label} with probability ${share}: a dot above the ${label}.`;
  }

  /** Shows all passes: each of their probabilities, and their mean. */
  showPasses({ pass_probabilities: passes, mean, digit }) {
    const columns = mean.map((value, i) => ({ mean: value, passes: passes.map((probs) => probs[i]) }));
    drawBars(this.elements.passes, this.labels, columns, digit);
    const spread = Math.sqrt(
      passes.reduce((sum, probs) => sum + (probs[digit] - mean[digit]) ** 2, 0) /
        Math.max(passes.length - 1, 1),
    );
    this.elements.passesText.textContent =
      `Here the mean for ${this.labels[digit]} is ${mean[digit].toFixed(2)}, and ${passes.length} passes ` +
      `spread by ${spread.toFixed(2)}.`;
  }
}

/**
 * Draws layers as blocks of squares, one for each neuron.
 *
 * @returns a function that takes whether each neuron is off: those are hollow.
 */
function drawNetwork(svg, layerSizes) {
  const high = Math.floor((HEIGHT - 18) / DOT);
  const [places, names] = [[], []];
  let left = 2;
  for (const size of layerSizes.slice(1, -1)) {
    const columns = Math.ceil(size / high);
    for (let i = 0; i < size; i += 1) {
      places.push(`M${left + Math.floor(i / high) * DOT} ${2 + (i % high) * DOT}h2.2v2.2h-2.2z`);
    }
    const name = shape("text", { x: left + (columns * DOT) / 2, y: HEIGHT - 2 });
    name.textContent = size;
    left += columns * DOT + 22;
    const arrow = `M${left - 19} ${HEIGHT / 2 - 8}h13m-4-4 4 4-4 4`;
    names.push(name, shape("path", { class: "arrow", d: arrow }));
  }
  const out = shape("text", { x: left + 12, y: HEIGHT / 2 - 5 });
  out.textContent = "0 to 9";
  const [on, off] = ["on", "off"].map((name) => shape("path", { class: name }));
  svg.setAttribute("viewBox", `0 0 ${left + 30} ${HEIGHT}`);
  svg.replaceChildren(on, off, ...names, out);
  return (isOff) => {
    on.setAttribute("d", places.filter((_, i) => !isOff[i]).join(""));
    off.setAttribute("d", places.filter((_, i) => isOff[i]).join(""));
  };
}

/** A column for each class: its mean as a bar, and each pass as a thin line across. */
function drawBars(svg, labels, columns, best = -1) {
  const [width, base] = [22, HEIGHT - 16];
  const y = (probability) => base - probability * (base - 4);
  svg.setAttribute("viewBox", `0 0 ${labels.length * width} ${HEIGHT}`);
  svg.replaceChildren(
    shape("line", { class: "grid", x1: 0, x2: labels.length * width, y1: base, y2: base }),
    ...labels.flatMap((label, i) => {
      const name = shape("text", { x: (i + 0.5) * width, y: HEIGHT - 2 });
      name.textContent = label;
      if (columns[i] === undefined) return [name];
      const { mean, passes = [] } = columns[i];
      const box = { x: i * width + 4, width: width - 8, y: y(mean), height: base - y(mean) };
      const bar = shape("rect", { class: i === best ? "bar best" : "bar", ...box });
      const d = passes.map((probability) => `M${i * width + 2} ${y(probability).toFixed(1)}h${width - 4}`);
      return [bar, shape("path", { class: "ticks", d: d.join("") }), name];
    }),
  );
}
