// The parameters of a question, as the controls show them.

/** Passes, estimator, stopping and seed; `onChange` is called when one is changed by hand. */
export class Settings {
  constructor({ passes, estimator, within, seed, roll }, { onChange }) {
    this.controls = { passes, estimator, within, seed };
    this.roll();
    for (const control of Object.values(this.controls)) {
      control.addEventListener("change", () => {
        this.#matchStopping();
        onChange();
      });
    }
    roll.addEventListener("click", () => {
      this.roll();
      onChange();
    });
  }

  /** The parameters of a request. What is impossible in them the server says best. */
  get query() {
    const { passes, estimator, within, seed } = this.controls;
    const query = { passes: passes.value, seed: seed.value.trim(), estimator: estimator.value };
    if (within.value !== "off") query.max_standard_error = within.value;
    return query;
  }

  /** Takes the parameters of a link; what it does not name stays. */
  set query(query) {
    const { passes, estimator, within, seed } = this.controls;
    if (query.passes !== undefined) passes.value = query.passes;
    if (query.seed !== undefined) seed.value = query.seed;
    if (query.estimator === "balanced") estimator.value = "balanced";
    const target = query.max_standard_error;
    if ([...within.options].some(({ value }) => value === target)) within.value = target;
    this.#matchStopping();
  }

  /** Draws a new seed: below 2^32, as the server's own are. */
  roll() {
    this.controls.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  }

  /** Balanced masks depend on the number of passes, so that they cannot stop early. */
  #matchStopping() {
    const { estimator, within } = this.controls;
    within.disabled = estimator.value === "balanced";
    if (within.disabled) within.value = "off";
  }
}
