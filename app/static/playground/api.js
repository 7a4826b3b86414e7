// The server's API as the page uses it. `EventSource` cannot POST, so streams are read by hand.

/** An answer that says what is wrong. */
export class ServerError extends Error {
  constructor(status, error, retryAfterSeconds) {
    const { code = "unknown", message = "the server gave no reason", param, steps } = error;
    super(message);
    Object.assign(this, { status, code, param, steps, retryAfterSeconds });
  }
}

/** No answer at all, or one that breaks off. */
export class UnreachableError extends Error {}

/** The model card: labels, layer sizes, dropout rates, version. @param network null: the default. */
export async function fetchModel(network) {
  return (await send(network === null ? "model" : networkPath(network), {})).json();
}

/** The networks that read digits: `name`, and whether each is the `default`; none if it is one. */
export async function fetchNetworks() {
  const { models } = await (await send("models", {})).json();
  const ofDigits = models.filter(({ versions }) => versions.at(-1).input.preparation === "digit");
  return ofDigits.length < 2 ? [] : ofDigits;
}

function networkPath(network) {
  return `models/${encodeURIComponent(network)}`;
}

/** The address of a prediction route, relative to the page. */
export function predictAddress(path, { network, ...query }, preprocess) {
  const start = network === undefined ? "" : `${networkPath(network)}/`;
  return `${start}${path}?${new URLSearchParams({ ...query, preprocess })}`;
}

/**
 * Asks about a picture and yields what is known after some of the passes, then the whole answer.
 * The last has `isFinal` and, in `text`, the answer's very bytes.
 */
export async function* streamAnswer(picture, query, signal) {
  const response = await post(
    "predict/mc/stream",
    picture,
    { ...query, return_input: true },
    signal,
  );
  let isWhole = false;
  for await (const { name, data } of readEvents(response, signal)) {
    const content = JSON.parse(data);
    if (name === "error") throw errorFrom(content, 500, null);
    isWhole = name === "result";
    yield { answer: content, text: data, isFinal: isWhole };
  }
  if (!isWhole) throw new UnreachableError("the stream ended early");
}

/** The same answer with every pass in it: its probabilities, and the neurons it dropped. */
export async function fetchPasses(picture, query, signal) {
  const response = await post("predict/mc", picture, { ...query, return_passes: true }, signal);
  return response.json();
}

/** Small pictures of how it was read, by name, as PNGs in base64; none if it cannot be asked. */
export async function fetchSteps(picture, signal) {
  try {
    const response = await post("predict", picture, { return_steps: true }, signal);
    return (await response.json()).steps;
  } catch (error) {
    return error.steps ?? {};
  }
}

function post(path, picture, query, signal) {
  const headers = { "content-type": picture.type };
  const address = predictAddress(path, query, picture.preprocess);
  return send(address, { method: "POST", body: picture.body, headers, signal });
}

async function send(address, options) {
  const key = keyHeaders();
  let response;
  try {
    const headers = { ...options.headers, ...key };
    response = await fetch(address, { cache: "no-store", ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new UnreachableError("no answer");
  }
  if (response.ok) return response;
  if (response.status === 401 && (await enterKey(key.authorization))) return send(address, options);
  const body = await response.json().catch(() => ({}));
  throw errorFrom(body, response.status, response.headers.get("retry-after"));
}

function errorFrom(body, status, retryAfter) {
  const seconds = retryAfter === null ? null : Number(retryAfter);
  return new ServerError(status, body.error ?? {}, seconds);
}

async function* readEvents(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw signal.aborted ? error : new UnreachableError("the stream broke off");
    }
    if (part.done) return;
    text += part.value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const [, name, data] = event.match(/^event: (\w+)\ndata: (.*)$/s);
      yield { name, data };
    }
  }
}

// The API key, where the server wants one: asked for when it does, kept until the tab is closed.

const STORED = "dropserve-api-key";

let asking = null;
let isRefused = false;

/** Whether a key is sent with every question. */
export function hasKey() {
  return sessionStorage.getItem(STORED) !== null;
}

/** The headers that go with every question. */
function keyHeaders() {
  return hasKey() ? { authorization: `Bearer ${sessionStorage.getItem(STORED)}` } : {};
}

/**
 * Asks the person for a key, after the server refused what was sent with `used`.
 *
 * @returns whether it is worth asking the server again. Whoever gives none is not asked twice.
 */
async function enterKey(used) {
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
