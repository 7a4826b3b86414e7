// What the network sees of the picture, and on demand the steps in which it was prepared.

import { fetchSteps } from "./api.js";

/** Shows the 28 x 28 values that the network saw, in the colours of the theme. */
export function showInput(canvas, input) {
  const context = canvas.getContext("2d");
  const [red, green, blue] = getComputedStyle(canvas).color.match(/\d+/g).map(Number);
  const image = context.createImageData(input[0].length, input.length);
  input.flat().forEach((ink, i) => image.data.set([red, green, blue, ink], 4 * i));
  context.putImageData(image, 0, 0);
}

/** The steps of the last question, while their part of the page is open. */
export class Steps {
  #question = null;

  /** @param elements `steps` (details), `pictures` (a list in it), `button` (opens it from afar). */
  constructor({ steps, pictures, button }) {
    this.details = steps;
    this.pictures = pictures;
    steps.addEventListener("toggle", () => this.#show());
    button.addEventListener("click", () => {
      steps.open = true;
      steps.scrollIntoView({ block: "center" });
    });
  }

  /** Takes another question, or null for none. */
  load(question) {
    this.#question = question;
    this.#show();
  }

  async #show() {
    const question = this.#question;
    if (question?.picture == null || !this.details.open) {
      this.pictures.replaceChildren();
      return;
    }
    const steps = await fetchSteps(question.picture, question.signal);
    if (question !== this.#question) return;
    this.pictures.replaceChildren(
      ...Object.entries(steps).map(([name, png]) => {
        const item = document.createElement("li");
        const source = `data:image/png;base64,${png}`;
        item.append(Object.assign(document.createElement("img"), { src: source, alt: "" }), name);
        return item;
      }),
    );
    if (this.pictures.childElementCount === 0) {
      this.pictures.textContent = "It needed none: it is already as the network wants it.";
    }
  }
}
