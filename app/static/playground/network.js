// The network that answers: its card in words, and the switch between networks.

import { fetchNetworks } from "./api.js";
import { dropoutWords } from "./words.js";

/** Fills the dialog of the model card. @param elements `link`, `dialog`, `facts` (a list). */
export function showCard({ link, facts }, model) {
  const { layer_sizes: sizes, dropout_rates: rates } = model.config;
  const { training, metrics, calibration } = model;
  const validation = metrics?.calibrated_validation?.mc;
  const percent = (share) => `${(100 * share).toFixed(2)} %`;
  const lines = {
    Name: `${model.name}, version ${model.version}`,
    Layers: `${sizes[0]} values in; ${sizes.slice(1, -1).join(", ")} neurons; ${sizes.at(-1)} digits out`,
    Dropout: `each pass switches off ${dropoutWords(rates)}`,
    "Trained on": training?.dataset?.toUpperCase(),
    "Limit for doubt": calibration?.thresholds ? "set on the digits kept back" : "none",
    "Wrong answers": validation && `${percent(validation.error)} of ${metrics.validation.images.toLocaleString("en")} digits kept back from training`,
    "If it may abstain": validation && `it answers ${percent(validation.coverage)}, and ${percent(validation.accepted_error)} of these answers are wrong`,
  };
  link.textContent = `Model ${model.version}`;
  facts.replaceChildren(
    ...Object.entries(lines).flatMap(([name, text]) =>
      text === undefined
        ? []
        : [
            Object.assign(document.createElement("dt"), { textContent: name }),
            Object.assign(document.createElement("dd"), { textContent: text }),
          ],
    ),
  );
}

/** Has links to the card's JSON open it in words, once it is there. */
export function listenForCard(links, dialog) {
  for (const link of links) {
    link.addEventListener("click", (event) => {
      if (dialog.querySelector("dd") === null) return;
      event.preventDefault();
      dialog.showModal();
    });
  }
}

/** Shows the switch if there is more than one network. @param onSwitch called with a name. */
export async function buildSwitch(label, onSwitch) {
  const networks = await fetchNetworks();
  const select = label.querySelector("select");
  for (const { name, default: isDefault } of networks) {
    select.add(new Option(name, name, isDefault, isDefault));
  }
  select.addEventListener("change", () => onSwitch(select.value));
  label.hidden = networks.length === 0;
}

/** Has the switch show which network answers; null is the default. */
export function showSwitched(label, name) {
  for (const option of label.querySelectorAll("option")) {
    option.selected = name === null ? option.defaultSelected : option.value === name;
  }
}
