// One pass at a time: which neurons were off in it, and what that copy of the network says.

import { fromBase64 } from "./pictures.js";
import { shape } from "./tracks.js";
import { topTwo } from "./words.js";

const STEP_MS = 400;
const HIGH = 16; // neurons in a column of the picture
const STEPS = { ArrowLeft: -HIGH, ArrowRight: HIGH, ArrowUp: -1, ArrowDown: 1 };

/**
 * The panel under the rows.
 *
 * @param elements `text`, `neurons`, `pointed`, `slider`, `back`, `play`, `forward`.
 * @param onShow called with what is shown of the pass: its `place` among its class's, `probs`,
 *   `isOff` (for each neuron), and whether it `isAsked` for; null for none.
 */
export class Passes {
  constructor(elements, { onShow }) {
    this.elements = elements;
    this.onShow = onShow;
    this.squares = [];
    this.details = null;
    this.timer = null;
    this.pointedAt = null;
    const { slider, back, play, forward, neurons } = elements;
    for (const kind of ["pointermove", "pointerdown"]) {
      neurons.addEventListener(kind, ({ target }) => this.#point(this.squares.indexOf(target)));
    }
    neurons.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const next = this.pointedAt === null ? 0 : this.pointedAt + STEPS[event.key];
      this.#point(Math.min(Math.max(next, 0), this.squares.length - 1));
    });
    slider.addEventListener("input", () => this.#go(slider.valueAsNumber - 1));
    back.addEventListener("click", () => this.#go(this.chosen - 1));
    forward.addEventListener("click", () => this.#go(this.chosen + 1));
    play.addEventListener("click", () => (this.timer === null ? this.#play() : this.stop()));
  }

  /** Draws one square for each hidden neuron, layer next to layer. */
  build(hiddenSizes) {
    const names = [];
    let left = 0;
    this.places = hiddenSizes.flatMap((size, layer) =>
      Array.from({ length: size }, (_, i) => ({ layer: layer + 1, number: i + 1 })),
    );
    this.squares = hiddenSizes.flatMap((size, layer) => {
      const name = shape("text", { x: left, y: HIGH + 2.6 });
      name.textContent = layer === 0 ? `${size} in layer 1` : String(size);
      names.push(name);
      const squares = Array.from({ length: size }, (_, i) => {
        const [x, y] = [left + Math.floor(i / HIGH), i % HIGH];
        return shape("rect", { x, y, width: 0.8, height: 0.8 });
      });
      left += Math.max(Math.ceil(size / HIGH), 4) + 2;
      return squares;
    });
    this.elements.neurons.setAttribute("viewBox", `0 0 ${left - 2.2} ${HIGH + 3.4}`);
    this.elements.neurons.replaceChildren(...this.squares, ...names);
  }

  /** Nothing to choose from yet. */
  clear() {
    this.stop();
    this.details = null;
    this.#enable(false);
    this.elements.text.textContent = "Each dot is a pass to look into.";
    for (const square of this.squares) square.classList.remove("off");
    this.#point(-1);
    this.onShow(null);
  }

  /**
   * Takes an answer with its passes, and chooses the first that disagrees with it.
   *
   * @param labels names of the classes.
   */
  load(details, labels) {
    this.details = details;
    this.labels = labels;
    this.choices = details.pass_probabilities.map((probs) => topTwo(probs)[0]);
    this.bits = details.dropped.map(fromBase64);
    this.elements.slider.max = details.passes;
    this.#enable(true);
    const dissenting = this.choices.findIndex((choice) => choice !== details.digit);
    this.#show(Math.max(dissenting, 0), false);
  }

  /** Shows the pass that is the `number`-th, from 0, of those that chose a class. */
  choose(digit, number) {
    if (this.details === null) return;
    const passes = this.choices.flatMap((choice, index) => (choice === digit ? [index] : []));
    this.#go(passes[number]);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.elements.play.textContent = "Play";
  }

  #play() {
    this.elements.play.textContent = "Pause";
    this.timer = setInterval(() => this.#show((this.chosen + 1) % this.details.passes), STEP_MS);
  }

  #go(index) {
    this.stop();
    this.#show(Math.min(Math.max(index, 0), this.details.passes - 1));
  }

  #show(index, isAsked = true) {
    this.chosen = index;
    const { text, slider } = this.elements;
    const digit = this.choices[index];
    const probs = this.details.pass_probabilities[index];
    const isOff = this.squares.map((_, neuron) => this.#isOff(index, neuron));
    this.squares.forEach((square, i) => square.classList.toggle("off", isOff[i]));
    const dropped = isOff.filter(Boolean).length;
    slider.value = index + 1;
    const says = probs[digit] < 0.5 ? "leans to" : "says";
    text.textContent =
      `${index + 1} of ${this.details.passes}: this pass ${says} ${this.labels[digit]} ` +
      `(${probs[digit].toFixed(2)}), ${dropped} neurons off.`;
    slider.setAttribute("aria-valuetext", text.textContent);
    const number = this.choices.slice(0, index).filter((choice) => choice === digit).length;
    this.onShow({ place: { digit, number }, index, probs, isOff, isAsked });
  }

  #isOff(pass, neuron) {
    return ((this.bits[pass][neuron >> 3] >> (7 - (neuron & 7))) & 1) === 1;
  }

  /** Says in how many passes a neuron was off. */
  #point(neuron) {
    this.squares[this.pointedAt]?.classList.remove("pointed");
    this.pointedAt = neuron < 0 || this.details === null ? null : neuron;
    if (this.pointedAt === null) {
      this.elements.pointed.textContent = "Point at a neuron: how often was it off?";
      return;
    }
    this.squares[neuron].classList.add("pointed");
    const { layer, number } = this.places[neuron];
    const off = this.bits.filter((_, pass) => this.#isOff(pass, neuron)).length;
    this.elements.pointed.textContent =
      `Layer ${layer}, neuron ${number}: off in ${off} of ${this.details.passes} passes.`;
  }

  #enable(isEnabled) {
    const { slider, back, play, forward } = this.elements;
    for (const control of [slider, back, play, forward]) control.disabled = !isEnabled;
  }
}
