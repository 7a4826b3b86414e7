// One pass at a time: which neurons were off in it, and what that copy of the network says.

import { fromBase64 } from "./pictures.js";
import { shape } from "./rows.js";
import { topTwo } from "./words.js";

const STEP_MS = 400;
const HIGH = 16; // neurons in a column of the picture

/**
 * The panel under the rows.
 *
 * @param elements `text`, `neurons`, `slider`, `back`, `play`, `forward`.
 * @param onShow called with the place of the pass among its class's, and its probabilities.
 */
export class Passes {
  constructor(elements, { onShow }) {
    this.elements = elements;
    this.onShow = onShow;
    this.squares = [];
    this.details = null;
    this.timer = null;
    const { slider, back, play, forward } = elements;
    slider.addEventListener("input", () => this.#go(slider.valueAsNumber - 1));
    back.addEventListener("click", () => this.#go(this.chosen - 1));
    forward.addEventListener("click", () => this.#go(this.chosen + 1));
    play.addEventListener("click", () => (this.timer === null ? this.#play() : this.stop()));
  }

  /** Draws one square for each hidden neuron, layer next to layer. */
  build(hiddenSizes) {
    let left = 0;
    this.squares = hiddenSizes.flatMap((size) => {
      const squares = Array.from({ length: size }, (_, i) => {
        const [x, y] = [left + Math.floor(i / HIGH), i % HIGH];
        return shape("rect", { x, y, width: 0.8, height: 0.8 });
      });
      left += Math.ceil(size / HIGH) + 2;
      return squares;
    });
    this.elements.neurons.setAttribute("viewBox", `0 0 ${left - 2.2} ${HIGH - 0.2}`);
    this.elements.neurons.replaceChildren(...this.squares);
  }

  /** Nothing to choose from yet. */
  clear() {
    this.stop();
    this.details = null;
    this.#enable(false);
    this.elements.text.textContent = "Each dot is a copy of the network to look into.";
    for (const square of this.squares) square.classList.remove("off");
    this.onShow(null, null);
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
    const bits = fromBase64(this.details.dropped[index]);
    let dropped = 0;
    this.squares.forEach((square, i) => {
      const isOff = (bits[i >> 3] >> (7 - (i & 7))) & 1;
      dropped += isOff;
      square.classList.toggle("off", isOff === 1);
    });
    slider.value = index + 1;
    const says = probs[digit] < 0.5 ? "leans to" : "says";
    text.textContent =
      `${index + 1} of ${this.details.passes}: this copy ${says} ${this.labels[digit]} ` +
      `(${probs[digit].toFixed(2)}), ${dropped} neurons off.`;
    slider.setAttribute("aria-valuetext", text.textContent);
    const number = this.choices.slice(0, index).filter((choice) => choice === digit).length;
    this.onShow({ digit, number }, isAsked ? probs : null);
  }

  #enable(isEnabled) {
    const { slider, back, play, forward } = this.elements;
    for (const control of [slider, back, play, forward]) control.disabled = !isEnabled;
  }
}
