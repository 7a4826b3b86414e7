// Why: the doubt, split into what lies in the drawing and what lies in the network.

import { doubtWords, isByEntropy } from "./words.js";

/** Shows the split as a bar and in words. @param elements `drawing`, `copies`, `limit`, `text`. */
export function showDoubt(elements, answer) {
  const most = Math.log(answer.mean.length);
  const share = (nats) => 100 * Math.min(nats / most, 1);
  const middle = share(answer.expected_entropy);
  const end = Math.min(middle + share(answer.mutual_information), 100);
  showPart(elements.drawing, 0, middle);
  showPart(elements.copies, middle, end);
  elements.limit.hidden = answer.decision === null;
  if (answer.decision !== null) {
    // A limit for disagreement counts from where that part begins.
    const start = isByEntropy(answer.decision) ? 0 : middle;
    const place = Math.min(start + share(answer.decision.threshold), 100);
    elements.limit.style.transform = `translateX(${place}%)`; // other moves count as shifts
  }
  elements.text.textContent = doubtWords(answer);
}

export function clearDoubt(elements) {
  showPart(elements.drawing, 0, 0);
  showPart(elements.copies, 0, 0);
  elements.limit.hidden = true;
  elements.text.textContent =
    "Doubt has two sources: an unclear drawing, and passes that disagree.";
}

/** Shows a part of the bar, in per cent of its width: cut out, since what is moved counts as a shift. */
function showPart(element, start, end) {
  element.style.clipPath = `inset(0 ${(100 - end).toFixed(2)}% 0 ${start.toFixed(2)}%)`;
}
