// The whole state in the address, and the same question as a command line.

import { hasKey, predictAddress } from "./api.js";
import { encodeGreyPng, fromBase64, toBase64 } from "./pictures.js";

/** What the network saw, 28 rows of 28 values, as the smallest PNG. */
export async function inputPng(input) {
  return encodeGreyPng(Uint8Array.from(input.flat()), input[0].length, input.length);
}

/** The part of a link after `#`. */
export function linkHash(png, query) {
  const picture = toBase64(png).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `#${new URLSearchParams({ ...query, picture })}`;
}

/** Reads a link: the picture's bytes, if it has one, and the parameters. */
export function readHash(hash) {
  const { picture, ...query } = Object.fromEntries(new URLSearchParams(hash.slice(1)));
  if (picture === undefined) return { png: null, query };
  try {
    return { png: fromBase64(picture.replaceAll("-", "+").replaceAll("_", "/")), query };
  } catch {
    return { png: null, query };
  }
}

/** A command that needs nothing but a shell, and gets the page's answer byte for byte. */
export function curlCommand(png, query) {
  const address = new URL(predictAddress("predict/mc", query, "none"), document.baseURI);
  // Not the key itself: commands are kept in histories.
  const key = hasKey() ? '-H "Authorization: Bearer $DROPSERVE_API_KEY" ' : "";
  return (
    `printf %s '${toBase64(png)}' | base64 --decode | ` +
    `curl --data-binary @- -H 'Content-Type: image/png' ${key}'${address}'`
  );
}

/** The answer without what only the page asked for: what the command prints. */
export function plainAnswer(text) {
  return text.replace(/"input":\[\[.*?\]\],/, "");
}

/**
 * Has a button copy a text.
 *
 * @param place the element that shows the text, inside `details`.
 */
export function buildCopyButton(button, place, details) {
  button.addEventListener("click", async () => {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(place.textContent);
      button.textContent = "Copied";
    } catch {
      // Without https there is no clipboard: show what to copy, selected.
      details.open = true;
      getSelection().selectAllChildren(place);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => (button.textContent = label), 1500);
  });
}

/** Has links within the page leave the address alone: what comes after its # is the drawing. */
export function keepAddress() {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      const target = document.querySelector(link.hash);
      event.preventDefault();
      target.scrollIntoView();
      target.focus({ preventScroll: true });
    });
  }
}
