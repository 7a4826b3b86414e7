// The parameters of a question, as the controls show them.

const CONTROLS = {
  passes: "passes",
  seed: "seed",
  estimator: "estimator",
  max_standard_error: "within",
  dropout: "rate",
};

/**
 * Passes, rate, masks, stopping, seed and network.
 *
 * @param elements the controls, `roll`, `ownRate` (a button), `rateText`, and `wrong` (what the
 *   server does not take).
 * @param onChange called when one is changed by hand.
 * @param onSlide called while the rate is moved.
 */
export class Settings {
  constructor(elements, { onChange, onSlide }) {
    this.elements = elements;
    this.network = null; // the server's own choice
    this.ownRate = null; // known with the model
    this.roll();
    for (const name of ["passes", "estimator", "within", "seed"]) {
      elements[name].addEventListener("change", () => {
        this.#matchStopping();
        onChange();
      });
    }
    elements.roll.addEventListener("click", () => {
      this.roll();
      onChange();
    });
    elements.rate.addEventListener("input", () => {
      this.#showRate();
      onSlide();
    });
    elements.rate.addEventListener("change", onChange);
    elements.ownRate.addEventListener("click", () => {
      this.#setRate(this.ownRate);
      elements.rate.focus(); // the button is gone
      onChange();
    });
  }

  /** The parameters of a request. What is impossible in them the server says best. */
  get query() {
    const { passes, estimator, within, seed, rate } = this.elements;
    const query = { passes: passes.value, seed: seed.value.trim(), estimator: estimator.value };
    if (within.value !== "off") query.max_standard_error = within.value;
    if (!this.#isOwnRate()) query.dropout = rate.value;
    if (this.network !== null) query.network = this.network;
    return query;
  }

  /** Takes the parameters of a link; without passes or seed those stay. */
  set query(query) {
    const { passes, estimator, within, seed } = this.elements;
    if (query.passes !== undefined) passes.value = query.passes;
    if (query.seed !== undefined) seed.value = query.seed;
    estimator.value = query.estimator === "balanced" ? "balanced" : "independent";
    const target = query.max_standard_error;
    within.value = [...within.options].some(({ value }) => value === target) ? target : "off";
    this.#matchStopping();
    const rate = query.dropout === undefined ? this.ownRate : Number(query.dropout);
    if (rate !== null) this.#setRate(rate);
  }

  /** The rates of the network, a number for each hidden layer. */
  setOwnRates(rates) {
    const isOwn = this.ownRate === null || this.#isOwnRate();
    const mean = rates.reduce((sum, rate) => sum + rate, 0) / rates.length;
    this.ownRate = Math.round(100 * mean) / 100;
    this.elements.rate.disabled = false;
    if (isOwn) this.#setRate(this.ownRate);
    else this.#showRate();
  }

  /** Draws a new seed: below 2^32, as the server's own are. */
  roll() {
    this.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  }

  /**
   * Marks the control of a parameter that the server does not take; null for none.
   *
   * @returns whether there is such a control.
   */
  mark(parameter, message = "") {
    const wrong = this.elements[CONTROLS[parameter]];
    for (const name of Object.values(CONTROLS)) {
      const control = this.elements[name];
      if (control === wrong) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    }
    this.elements.wrong.textContent = wrong === undefined ? "" : message;
    return wrong !== undefined;
  }

  #isOwnRate() {
    return this.ownRate === null || Math.abs(this.elements.rate.valueAsNumber - this.ownRate) < 0.005;
  }

  #setRate(rate) {
    if (Number.isFinite(rate)) this.elements.rate.valueAsNumber = rate;
    this.#showRate();
  }

  #showRate() {
    const { rate, rateText, ownRate } = this.elements;
    const isOwn = this.#isOwnRate();
    const whose = isOwn ? "the network's own" : `the network's own is ${this.ownRate.toFixed(2)}`;
    rateText.textContent = `${rate.valueAsNumber.toFixed(2)}, ${whose}`;
    rate.setAttribute("aria-valuetext", rateText.textContent);
    ownRate.hidden = isOwn;
  }

  /** Balanced masks depend on the number of passes, so that they cannot stop early. */
  #matchStopping() {
    const { estimator, within } = this.elements;
    within.disabled = estimator.value === "balanced";
    if (within.disabled) within.value = "off";
  }
}
