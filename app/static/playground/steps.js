// How the picture was read: small pictures of the preparation's steps, asked for on demand.

import { fetchSteps } from "./api.js";

/** The steps of the last question, while their part of the page is open. */
export class Steps {
  #question = null;

  /** @param elements `steps` (details) and `pictures` (a list in it). */
  constructor({ steps, pictures }) {
    this.details = steps;
    this.pictures = pictures;
    steps.addEventListener("toggle", () => this.#show());
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
    const steps = await fetchSteps(question.picture, question.controller.signal);
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
