// Why: the doubt, split into what lies in the drawing and what lies in the network.

import { doubtWords, isByEntropy } from "./words.js";

/** Shows the split as a bar and in words. @param elements `bar`, `drawing`, `copies`, `limit`, `text`. */
export function showDoubt(elements, answer) {
  const most = Math.log(answer.mean.length);
  const share = (nats) => 100 * Math.min(nats / most, 1);
  const middle = share(answer.expected_entropy);
  const end = Math.min(middle + share(answer.mutual_information), 100);
  showPart(elements.drawing, 0, middle);
  showPart(elements.copies, middle, end);
  elements.limit.hidden = !isByEntropy(answer.decision);
  if (!elements.limit.hidden) elements.limit.style.left = `${share(answer.decision.threshold)}%`;
  elements.text.textContent = doubtWords(answer);
}

export function clearDoubt(elements) {
  showPart(elements.drawing, 0, 0);
  showPart(elements.copies, 0, 0);
  elements.limit.hidden = true;
  elements.text.textContent =
    "Doubt has two sources: a drawing that is unclear, and copies that disagree about it.";
}

/** Shows a part of the bar, in per cent of its width: cut out, since what is moved counts as a shift. */
function showPart(element, start, end) {
  element.style.clipPath = `inset(0 ${(100 - end).toFixed(2)}% 0 ${start.toFixed(2)}%)`;
}

/** Shows the 28 x 28 values that the network saw, in the colours of the theme. */
export function showInput(canvas, input) {
  const context = canvas.getContext("2d");
  const [red, green, blue] = getComputedStyle(canvas).color.match(/\d+/g).map(Number);
  const image = context.createImageData(input[0].length, input.length);
  input.flat().forEach((ink, i) => image.data.set([red, green, blue, ink], 4 * i));
  context.putImageData(image, 0, 0);
}
