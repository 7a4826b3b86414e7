// The API key, where the server wants one: asked for when it does, kept until the tab is closed.

const STORED = "dropserve-api-key";

let asking = null;
let isRefused = false;

/** Whether a key is sent with every question. */
export function hasKey() {
  return sessionStorage.getItem(STORED) !== null;
}

/** The headers that go with every question. */
export function keyHeaders() {
  return hasKey() ? { authorization: `Bearer ${sessionStorage.getItem(STORED)}` } : {};
}

/**
 * Asks the person for a key, after the server refused what was sent with `used`.
 *
 * @returns whether it is worth asking the server again. Whoever gives none is not asked twice.
 */
export async function enterKey(used) {
  if (used !== keyHeaders().authorization) return true; // another question has one since
  if (isRefused) return false;
  asking ??= ask(used !== undefined).finally(() => (asking = null));
  return asking;
}

async function ask(isWrong) {
  const dialog = document.getElementById("key-dialog");
  const field = document.getElementById("key");
  field.value = "";
  document.getElementById("key-wrong").hidden = !isWrong;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const key = field.value.trim();
  field.value = "";
  isRefused = dialog.returnValue !== "use" || key === "";
  if (isRefused) sessionStorage.removeItem(STORED);
  else sessionStorage.setItem(STORED, key);
  return !isRefused;
}
