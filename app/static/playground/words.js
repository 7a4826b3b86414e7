// What the page says in each state. The server decides; this only finds the words.

/**
 * Headline, line and badge of a state.
 *
 * @param state `kind` and what it needs: `answer` (drawing, answered), `answer` and `total`
 *   (converging), `error` (failed).
 * @param labels names of the classes.
 */
export function wordsFor(state, labels) {
  switch (state.kind) {
    case "empty":
      return say("Draw a digit.", "Or drop a picture, paste one, or try an example.");
    case "drawing":
      return say(drawingHeadline(state.answer, labels), "I am reading along.");
    case "converging":
      return convergingWords(state, labels);
    case "answered":
      return answeredWords(state.answer, labels);
    case "failed":
      return failedWords(state);
  }
  throw new RangeError(state.kind);
}

const MAY_BE_NO_DIGIT =
  "It may not be a digit. I only know digits, and some other shapes will still fool me.";

function say(headline, line, badge = null) {
  return { headline, line, badge };
}

function drawingHeadline(answer, labels) {
  if (answer === null) return "Reading along.";
  const isInDoubt = answer.decision?.outcome === "abstain";
  return isInDoubt ? "Not sure yet." : `Looks like ${withArticle(labels[answer.digit])} so far.`;
}

function convergingWords({ answer, total }, labels) {
  const soFar = `${answer.passes} of ${total} passes so far`;
  if (isFlat(answer)) return say("No digit stands out.", `${soFar}; they find none likely.`);
  const [label, says] = [labels[answer.digit], answer.votes[answer.digit]];
  return say(`Leaning to ${label}.`, `${soFar}; ${says} ${verb(says)} ${label}.`);
}

function answeredWords(answer, labels) {
  const { decision } = answer;
  const label = labels[answer.digit];
  if (decision === null) {
    const line = "This network has no limit for doubt yet, so it neither answers nor abstains.";
    return say(`Most passes say ${label}.`, `${voteLine(answer, labels)} ${line}`);
  }
  if (decision.outcome === "accept") {
    const line = isUnanimous(answer)
      ? `${allPasses(answer)} agree.`
      : `${voteLine(answer, labels)} That is within my limit for doubt.`;
    return say(`It's ${withArticle(label)}.`, line, "ANSWERS");
  }
  return { ...abstainingWords(answer, labels), badge: "ABSTAINS" };
}

function abstainingWords(answer, labels) {
  const label = labels[answer.digit];
  if (answer.decision.reason === "several_digits") {
    return say("I see more than one digit.", "I read one at a time: choose one, or erase all but one.");
  }
  if (isFlat(answer)) {
    return say(
      "I don't recognise this.",
      `The passes find no digit likely: even the best gets only ${percentOfBest(answer)} % on ` +
        `average. ${MAY_BE_NO_DIGIT}`,
    );
  }
  if (isUnanimous(answer)) {
    return say(
      `I'm not sure. Perhaps ${withArticle(label)}.`,
      `${allPasses(answer)} lean to ${label}, but none of them firmly.`,
    );
  }
  if (answer.decision.reason === "ambiguous") {
    return say(
      `I'm not sure: ${label} or ${labels[rivalOf(answer)]}?`,
      `${voteLine(answer, labels)} I would rather not answer; a person should look.`,
    );
  }
  const digits = answer.votes.filter((votes) => votes > 0).length;
  return say(
    "I don't recognise this.",
    `The passes scatter over ${digits} digits; the best, ${label}, has ` +
      `${answer.votes[answer.digit]} of ${answer.passes}. ${MAY_BE_NO_DIGIT}`,
  );
}

/**
 * Whether each pass by itself finds no digit likely. What it votes for is then next to chance, and
 * neither words nor colours name it.
 */
export function isFlat({ decision, mean, digit, expected_entropy, mutual_information }) {
  return (
    decision?.reason === "unfamiliar" && mean[digit] < 0.5 && expected_entropy > mutual_information
  );
}

function percentOfBest({ mean, digit }) {
  return Math.round(100 * mean[digit]);
}

/** The class that words and colours set against the answer's own; equal votes differ by average. */
export function rivalOf({ decision, digit, votes, mean }) {
  // Two classes compete by their averages: so says the server.
  const weight = decision?.reason === "ambiguous" ? 0 : 1;
  const closeness = mean.map((share, i) => (i === digit ? -1 : weight * votes[i] + share));
  return topTwo(closeness)[0];
}

function failedWords({ error, since, retryInSeconds }) {
  const again = retryInSeconds === null ? "" : `Trying again in ${retryInSeconds} s.`;
  if (error.status === undefined) {
    const seen = since === null ? "" : `What you see is from ${since}. `;
    return say("The server does not answer.", `${seen}${again}`);
  }
  if (error.status === 429 || error.status === 503) return say("The server is busy.", again);
  if (error.code === "no_ink") return say("I can't find a digit.", sentence(error.message));
  if (error.code === "unsupported_media_type") {
    return say("I can't read that file.", "PNG, JPEG, WebP, BMP, GIF and TIFF work.");
  }
  if (["not_an_image", "truncated_image"].includes(error.code)) {
    return say("I can't read that file.", sentence(error.message));
  }
  return say("That did not work.", sentence(error.message));
}

/** "47 of 50 passes say 4, 3 say 9." */
function voteLine(answer, labels) {
  const { votes, passes, digit } = answer;
  const rival = rivalOf(answer);
  const rest = votes[rival] > 0 ? `, ${votes[rival]} ${verb(votes[rival])} ${labels[rival]}` : "";
  return `${votes[digit]} of ${passes} passes say ${labels[digit]}${rest}.`;
}

function allPasses({ passes }) {
  return passes === 1 ? "The only pass" : `All ${passes} passes`;
}

function isUnanimous({ votes, digit, passes }) {
  return votes[digit] === passes;
}

/** Whether a decision was made by the total doubt, which its threshold then limits. */
export function isByEntropy(decision) {
  return decision !== null && decision.measure !== "mutual_information";
}

/** The doubt in plain words, with the numbers of the answer. */
export function doubtWords(answer) {
  const doubt = answer.predictive_entropy;
  const most = Math.log(answer.mean.length);
  const limit = isByEntropy(answer.decision) ? `; my limit is ${answer.decision.threshold.toFixed(2)}` : "";
  return (
    `Total doubt ${doubt.toFixed(2)} (0 is none, ${most.toFixed(2)} is pure guessing${limit}). ` +
    `${answer.expected_entropy.toFixed(2)} because the drawing is unclear to each copy by itself; ` +
    `${answer.mutual_information.toFixed(2)} because the copies disagree. ` +
    `Calibrated confidence in ${isFlat(answer) ? "the best digit" : answer.label}: ` +
    `${answer.confidence.toFixed(2)}.`
  );
}

/** How many neurons a pass switches off: "a random 1 in 5", or per cent where that is no such share. */
export function dropoutWords(rates) {
  const low = Math.min(...rates);
  const high = Math.max(...rates);
  const oneIn = Math.round(1 / low);
  if (low === high && Math.abs(1 / low - oneIn) < 0.1) return `a random 1 in ${oneIn} neurons`;
  const percent = [...new Set([low, high].map((rate) => Math.round(rate * 100)))].join(" to ");
  return `a random ${percent} % of the neurons`;
}

/** The indices of the largest value and of the next. */
export function topTwo(values) {
  const order = values.map((_, index) => index).sort((a, b) => values[b] - values[a]);
  return [order[0], order[1]];
}

function withArticle(label) {
  return /^(8|11|18|[aeiou])/i.test(label) ? `an ${label}` : `a ${label}`;
}

function verb(count) {
  return count === 1 ? "says" : "say";
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
