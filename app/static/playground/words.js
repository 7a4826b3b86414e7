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

const TWO_DIGITS = 0.9; // of the votes: from here on the passes do not scatter, but differ

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
  if (decision === null) return undecidedWords(answer, labels);
  if (decision.outcome === "accept") {
    const line = isUnanimous(answer)
      ? agreement(answer, label)
      : `${voteLine(answer, labels)} That is within my limit for doubt.`;
    return say(`It's ${withArticle(label)}.`, line, "ANSWERS");
  }
  return { ...abstainingWords(answer, labels), badge: "ABSTAINS" };
}

/** At another dropout rate, or where the network has no limit, nothing is decided. */
function undecidedWords(answer, labels) {
  const label = labels[answer.digit];
  let headline = `The passes scatter; most often they say ${label}.`;
  if (2 * answer.votes[answer.digit] > answer.passes) headline = `Most passes say ${label}.`;
  if (isUnanimous(answer)) headline = `All passes say ${label}.`;
  if (answer.dropout == null) {
    const line = "This network has no limit for doubt yet, so it neither answers nor abstains.";
    return say(headline, `${voteLine(answer, labels)} ${line}`);
  }
  const passes = answer.dropout === 0 ? "Nothing was switched off, so all passes are the same." : voteLine(answer, labels);
  return say(headline, `${passes} Decisions hold only at the network's own rate, so none is made.`);
}

function abstainingWords(answer, labels) {
  const label = labels[answer.digit];
  const isAlone = answer.passes === 1;
  if (answer.decision.reason === "several_digits") {
    return say("I see more than one digit.", "I read one at a time: choose one by its frame. The grey dots are for the one with most ink.");
  }
  if (isFlat(answer)) {
    return say(
      "I don't recognise this.",
      `${isAlone ? "The only pass finds" : "The passes find"} no digit likely: even the best gets ` +
        `only ${percentOfBest(answer)} %${isAlone ? "" : " on average"}. ${MAY_BE_NO_DIGIT}`,
    );
  }
  if (isUnanimous(answer)) {
    const lean = isAlone ? "The only pass leans" : `All ${answer.passes} passes lean`;
    let firmly = isAlone ? "not firmly" : "none of them firmly";
    if (!isByEntropy(answer.decision)) firmly = "some firmly and some not";
    return say(`I'm not sure. Perhaps ${withArticle(label)}.`, `${lean} to ${label}, but ${firmly}.`);
  }
  const rival = rivalOf(answer);
  if (answer.decision.reason === "ambiguous") {
    return say(
      `I'm not sure: ${label} or ${labels[rival]}?`,
      `${voteLine(answer, labels)} I would rather not answer; a person should look.`,
    );
  }
  if (answer.votes[answer.digit] + answer.votes[rival] >= TWO_DIGITS * answer.passes) {
    return say(
      `I'm not sure: ${label} or ${labels[rival]}?`,
      `${voteLine(answer, labels)} That is more disagreement than I know from digits; a person ` +
        "should look.",
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
  const again = retryInSeconds === null ? "" : `Trying again in ${retryInSeconds}\u00a0s.`;
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

function agreement({ passes }, label) {
  return passes === 1 ? `The only pass says ${label}.` : `All ${passes} passes agree.`;
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
  const { decision } = answer;
  if (decision?.reason === "several_digits") {
    return "I abstain because there is more than one digit, not because of doubt. No confidence is given.";
  }
  const most = Math.log(answer.mean.length);
  const limit = decision === null ? "" : `my limit is ${decision.threshold.toFixed(2)}`;
  const [ofAll, ofCopies] = isByEntropy(decision) ? [`; ${limit}`, ""] : ["", limit && ` (${limit})`];
  return (
    `Total doubt ${answer.predictive_entropy.toFixed(2)} ` +
    `(0 is none, ${most.toFixed(2)} is pure guessing${ofAll}): ` +
    `${answer.expected_entropy.toFixed(2)} because the drawing is unclear to each pass by itself, ` +
    `${answer.mutual_information.toFixed(2)} because the passes disagree${ofCopies}. ` +
    confidenceWords(answer)
  );
}

/** What the calibrated confidence means here: it was measured on single digits. */
function confidenceWords({ decision, label, confidence }) {
  if (decision === null) return "Nothing is calibrated here, so no confidence is given.";
  const share = confidence < 0.995 ? confidence.toFixed(2) : "above 0.99"; // 1.00 would claim too much
  if (decision.outcome === "accept") return `Calibrated confidence in ${label}: ${share}.`;
  if (decision.reason === "ambiguous") {
    return `If I had to answer, I would say ${label}: confidence ${share}, calibrated on usual digits.`;
  }
  return "No confidence is given: it is calibrated on single digits like those I learnt.";
}

/** How many neurons a pass switches off: "a random 1 in 5", or per cent where that is no such share. */
export function dropoutWords(rates) {
  const low = Math.min(...rates);
  const high = Math.max(...rates);
  const oneIn = Math.round(1 / low);
  if (low === high && Math.abs(1 / low - oneIn) < 0.1) return `a random 1 in ${oneIn} of the neurons`;
  const percent = [...new Set([low, high].map((rate) => Math.round(rate * 100)))].join(" to ");
  return `a random ${percent}\u00a0% of the neurons`;
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

export function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
