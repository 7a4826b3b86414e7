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

  start(question) {
    this.stop();
    const startedAt = performance.now();
    let shown = null;
    const step = () => {
      const progress = isMotionReduced() ? 1 : (performance.now() - startedAt) / FALL_MS;
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
