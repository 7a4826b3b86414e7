// The server's API as the page uses it. `EventSource` cannot POST, so streams are read by hand.

import { enterKey, keyHeaders } from "./key.js";

/** An answer that says what is wrong. */
export class ServerError extends Error {
  constructor(status, code, message, retryAfterSeconds, steps) {
    super(message);
    this.steps = steps;
    this.status = status;
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** No answer at all, or one that breaks off. */
export class UnreachableError extends Error {}

/** The model card: labels, layer sizes, dropout rates, version. */
export async function fetchModel() {
  return (await send("model", {})).json();
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
  const parameters = new URLSearchParams({ ...query, preprocess: picture.preprocess });
  const headers = { "content-type": picture.type };
  return send(`${path}?${parameters}`, { method: "POST", body: picture.body, headers, signal });
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
  const { code = "unknown", message = "the server gave no reason", steps } = body.error ?? {};
  const seconds = retryAfter === null ? null : Number(retryAfter);
  return new ServerError(status, code, message, seconds, steps);
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
