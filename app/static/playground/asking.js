// Questions to the server: one in flight, the stale one aborted, failures asked again in time.

import { ServerError, UnreachableError, streamAnswer } from "./api.js";

const LIVE_INTERVAL_MS = 125; // at most eight questions a second while the pen moves
const UNREACHABLE_RETRY_SECONDS = 4;

/** One question and what has been answered so far. */
class Question {
  constructor(makePicture, query) {
    this.makePicture = makePicture;
    this.query = query;
    this.picture = null;
    this.estimates = [];
    this.final = null; // {answer, text} once all passes are known
    this.milliseconds = null; // from sending to the whole answer
    this.details = null; // the answer with every pass in it, if it was asked for
    this.controller = new AbortController();
  }

  /** Ends what is still asked about it; not what is asked once it is shown again. */
  get signal() {
    const { signal } = this.controller;
    return signal.aborted ? undefined : signal;
  }
}

/**
 * Asks the server.
 *
 * @param onAnswer called with the question whenever more is known about it.
 * @param onFailure called with the question, the error, and the seconds until it is asked again
 *   (null: never), once for each second that passes.
 */
export class Asker {
  constructor({ onAnswer, onFailure }) {
    this.onAnswer = onAnswer;
    this.onFailure = onFailure;
    this.current = null;
    this.isBusy = false;
    this.lastAskedAt = -Infinity;
    this.waiting = null;
    this.retryTimer = null;
  }

  /** Asks at once, instead of whatever was asked before. Returns the question. */
  ask(makePicture, query) {
    this.forget();
    const question = new Question(makePicture, query);
    this.current = question;
    this.#run(question);
    return question;
  }

  /** Asks as soon as the last question is answered; of several only the last one. */
  askSoon(makePicture, query) {
    clearTimeout(this.waiting);
    clearInterval(this.retryTimer);
    const wait = this.lastAskedAt + LIVE_INTERVAL_MS - performance.now();
    this.waiting = setTimeout(
      () => (this.isBusy ? this.askSoon(makePicture, query) : this.ask(makePicture, query)),
      Math.max(wait, this.isBusy ? 10 : 0),
    );
  }

  /** Drops the question, and its repetition. */
  forget() {
    clearTimeout(this.waiting);
    clearInterval(this.retryTimer);
    this.current?.controller.abort();
    this.current = null;
  }

  /** Asks again now what failed. */
  retry() {
    if (this.current !== null) this.ask(this.current.makePicture, this.current.query);
  }

  async #run(question) {
    this.isBusy = true;
    this.lastAskedAt = performance.now();
    const { signal } = question.controller;
    try {
      question.picture = await question.makePicture();
      const startedAt = performance.now();
      for await (const { answer, text, isFinal } of streamAnswer(
        question.picture,
        question.query,
        signal,
      )) {
        if (signal.aborted) return;
        question.estimates.push(answer);
        if (isFinal) {
          question.final = { answer, text };
          question.milliseconds = performance.now() - startedAt;
        }
        this.onAnswer(question);
      }
    } catch (error) {
      if (!signal.aborted) this.#fail(question, error);
    } finally {
      if (this.current === question || this.current === null) this.isBusy = false;
    }
  }

  #fail(question, error) {
    if (!(error instanceof ServerError || error instanceof UnreachableError)) throw error;
    let seconds = error.retryAfterSeconds ?? null;
    if (error instanceof UnreachableError) seconds = UNREACHABLE_RETRY_SECONDS;
    this.onFailure(question, error, seconds);
    if (seconds === null) return;
    this.retryTimer = setInterval(() => {
      seconds -= 1;
      if (seconds > 0) this.onFailure(question, error, seconds);
      else this.retry();
    }, 1000);
  }
}

// The passes, slowed down: the server needs less than a millisecond, an eye needs one second.

const FALL_MS = 900;
const EASE = 1.6; // above 1: the first passes take longer, so that each is seen

export function isMotionReduced() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Shows the estimates of a question one after the other, never before they have arrived. */
export class Playback {
  constructor({ onEstimate, onEnd }) {
    this.onEstimate = onEstimate;
    this.onEnd = onEnd;
    this.frame = null;
  }

  start(question, isAtOnce) {
    this.stop();
    this.isAtOnce = isAtOnce;
    const startedAt = performance.now();
    let shown = null;
    const step = () => {
      const progress = isAtOnce ? 1 : (performance.now() - startedAt) / FALL_MS;
      if (progress >= 1 && question.final !== null) {
        this.frame = null;
        this.onEnd(question);
        return;
      }
      const due = question.query.passes * Math.min(progress, 1) ** EASE;
      const estimate = question.estimates.findLast(({ passes }) => passes <= due);
      if (estimate !== undefined && estimate !== shown) {
        shown = estimate;
        this.onEstimate(estimate);
      }
      this.frame = requestAnimationFrame(step);
    };
    step();
  }

  stop() {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
  }
}
