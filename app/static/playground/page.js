// The playground: joins pad, questions, rows and words. Every other module does one thing alone.

import { ServerError, fetchModel, fetchPasses } from "./api.js";
import { Asker, Playback, isMotionReduced } from "./asking.js";
import { clearDoubt, showDoubt } from "./doubt.js";
import { OPENING, buildExamples } from "./examples.js";
import { Lesson } from "./lesson.js";
import { buildSwitch, showSwitched, listenForCard, showCard } from "./network.js";
import { Pad } from "./pad.js";
import { Passes } from "./passes.js";
import { listenForFiles, pictureOfFile, pictureOfInput } from "./pictures.js";
import { Steps, showInput } from "./seen.js";
import { Settings } from "./settings.js";
import {
  buildCopyButton,
  curlCommand,
  inputPng,
  keepAddress,
  linkHash,
  plainAnswer,
  readHash,
} from "./sharing.js";
import { watchTheme } from "./theme.js";
import { Tracks } from "./tracks.js";
import { sentence, wordsFor } from "./words.js";

const SETTLE_MS = 700; // without a further stroke: the drawing is done
const SPOKEN_AFTER_MS = 400; // with the settling and the playing more than a second after it
const SPOKEN_EVERY_MS = 1500; // while the pen moves
const MODEL_RETRY_MS = 4000;

const find = (id) => document.getElementById(id);
const findAll = (names) => Object.fromEntries(names.map((name) => [name, find(name)]));

let labels = [..."0123456789"];
let phase = "empty"; // drawing, sliding, playing, answered, failed
let computed = null; // the answer whose pale dots are being filled
let answered = null; // the last question that was played to its end
let answeredAt = null;
let answeredContent = null; // what was on the pad
let strokeEndedAt = null;
let isEstimateDue = false; // in the next frame
let settling = null;
let speaking = null;
let spoken = { headline: "", at: -Infinity };

const doubtElements = {
  ...findAll(["limit"]),
  drawing: find("doubt-drawing"),
  copies: find("doubt-copies"),
  text: find("doubt-text"),
};
const tracks = new Tracks(
  { table: find("rows"), legend: find("dot-passes"), ...findAll(["votes", "chances"]) },
  { onChoose: (digit, number) => passes.choose(digit, number) },
);
const lesson = new Lesson({
  ...Object.fromEntries(["network", "off", "pass", "passes"].map((name) => [name, find(`how-${name}`)])),
  offText: find("how-off-text"),
  passText: find("how-pass-text"),
  passesText: find("how-passes-text"),
});
const passes = new Passes(
  {
    text: find("pass-text"),
    slider: find("pass"),
    ...findAll(["neurons", "pointed", "back", "play", "forward"]),
  },
  { onShow: showPass },
);
const settings = new Settings(
  {
    ...findAll(["passes", "estimator", "within", "seed", "roll", "rate", "wrong"]),
    rateText: find("rate-text"),
    ownRate: find("own-rate"),
  },
  { onChange: askAnew, onSlide },
);
const steps = new Steps({ ...findAll(["steps", "pictures"]), button: find("show-steps") });
const playback = new Playback({
  onEstimate: (estimate) => {
    tracks.prepare(playback.total);
    tracks.show(estimate, computed ?? estimate);
    showNumbers(estimate);
    showWords({ kind: "converging", answer: estimate, total: playback.total });
  },
  onEnd: finish,
});
const asker = new Asker({ onAnswer, onFailure });
const pad = new Pad(find("pad"), { onStroke, onStrokeEnd, onReplace });

// The course of a drawing

function onStroke() {
  clearTimeout(settling);
  if (phase !== "drawing") {
    enter("drawing");
    showWords({ kind: "drawing", answer: null });
  }
  showTools();
  asker.askSoon(() => pad.picture(), settings.query);
}

function onStrokeEnd(time) {
  enter("drawing");
  showTools();
  strokeEndedAt = time;
  asker.ask(() => pad.picture(), settings.query);
  settling = setTimeout(() => play(asker.current), SETTLE_MS);
}

/** The rate is being moved: each answer stands at once. */
function onSlide() {
  if (pad.isEmpty) return;
  if (phase !== "sliding") enter("sliding");
  asker.askSoon(() => pad.picture(), settings.query);
}

function onReplace() {
  showTools();
  if (pad.isEmpty) empty();
  else askAnew();
}

function askAnew() {
  const isAtOnce = phase === "sliding" || isMotionReduced();
  if (!pad.isEmpty) play(asker.ask(() => pad.picture(), settings.query), isAtOnce);
}

function enter(next) {
  clearTimeout(settling);
  clearTimeout(speaking);
  playback.stop();
  if (phase === "answered" || phase === "failed") passes.clear();
  phase = next;
  computed = null;
  find("try-now").hidden = find("show-steps").hidden = true;
  find("alert").textContent = "";
  find("boxes").replaceChildren();
  document.body.classList.toggle("is-drawing", phase === "drawing");
  document.body.classList.remove("is-old");
  for (const name of ["link", "curl", "answer"]) find(name).textContent = "";
  find("copy-link").disabled = find("copy-curl").disabled = true;
}

function empty() {
  showHint();
  enter("empty");
  asker.forget();
  showNothing();
  showWords({ kind: "empty" });
}

function showNothing() {
  tracks.clear(Number(settings.query.passes) || 1);
  clearDoubt(doubtElements);
  passes.clear();
  lesson.clear();
  steps.load(null);
  document.body.classList.remove("is-several");
  find("seen").getContext("2d").reset();
  find("took").textContent = "";
}

function onAnswer(question) {
  if (phase === "failed") play(question);
  if (!["drawing", "sliding"].includes(phase) || isEstimateDue) return;
  isEstimateDue = true;
  requestAnimationFrame(showEstimate);
}

/** The last of the estimates that came since the last frame: only that one can be seen. */
function showEstimate() {
  isEstimateDue = false;
  const question = asker.current;
  const answer = question?.estimates.at(-1);
  if (answer === undefined) return;
  if (phase === "sliding" && question.final !== null) {
    tracks.prepare(Number(question.query.passes));
    tracks.show(answer);
    showNumbers(answer);
    showWords({ kind: "answered", answer });
  }
  if (phase !== "drawing") return;
  tracks.prepare(Number(question.query.passes));
  tracks.show(null, answer);
  showNumbers(answer);
  speakSoFar(showWords({ kind: "drawing", answer }));
  measureStroke();
}

/** Leaves the time from a stroke's end to the first estimate on the screen in the timeline. */
function measureStroke() {
  if (strokeEndedAt === null) return;
  const start = strokeEndedAt;
  strokeEndedAt = null;
  // Called in the frame that shows it: painting comes before the next task.
  setTimeout(() => performance.measure("stroke end to estimate", { start }));
}

function play(question, isAtOnce = isMotionReduced()) {
  enter("playing");
  computed = question.final?.answer ?? null;
  playback.total = Number(question.query.passes);
  find("rows").setAttribute("aria-busy", "true");
  playback.start(question, isAtOnce);
}

async function finish(question) {
  const { answer } = question.final;
  phase = "answered";
  computed = null;
  if (answered !== question) {
    settings.mark(null);
    answered = question;
    answeredAt = new Date().toLocaleTimeString("en-GB");
    answeredContent = pad.content;
  }
  tracks.prepare(Number(question.query.passes));
  tracks.show(answer);
  showNumbers(answer);
  find("rows").setAttribute("aria-busy", "false");
  const digits = question.milliseconds < 10 ? 1 : 0;
  const took = question.milliseconds.toFixed(digits);
  find("took").textContent = playback.isAtOnce ? `in ${took} ms` : `${took} ms, shown slower`;
  const words = showWords({ kind: "answered", answer });
  speaking = setTimeout(() => speak(words), SPOKEN_AFTER_MS);
  pad.showBoxes(find("boxes"), answer.decision?.boxes ?? []);
  steps.load(question);
  await Promise.all([showPasses(question), share(question)]);
}

function onFailure(question, error, retryInSeconds) {
  const isSetting = retryInSeconds === null && settings.mark(error.param, sentence(error.message));
  if (isSetting && answeredContent === pad.content) {
    finish(answered); // the last answer still holds
    return;
  }
  const isNew = phase !== "failed";
  if (isNew) enter("failed");
  const isGone = error.status === undefined;
  if (retryInSeconds === null) {
    showNothing();
    steps.load(question);
  }
  document.body.classList.toggle("is-old", retryInSeconds !== null && answered !== null);
  find("rows").setAttribute("aria-busy", "false");
  find("try-now").hidden = retryInSeconds === null;
  find("show-steps").hidden = error.code !== "no_ink";
  const since = answered === null ? null : answeredAt;
  const words = showWords({ kind: "failed", error, since, retryInSeconds });
  if (isNew && isGone) find("alert").textContent = words.headline;
  else if (isNew) speak(words);
}

// What is shown

function showWords(state) {
  const words = wordsFor(state, labels);
  find("headline").textContent = words.headline;
  find("line").textContent = words.line;
  find("badge").textContent = words.badge ?? "";
  find("verdict").dataset.badge = words.badge ?? "none";
  if (state.kind !== "drawing" && state.kind !== "converging") {
    find("pad").setAttribute("aria-label", `Drawing pad. ${words.headline}`);
  }
  return words;
}

// The streams would make a live region a fire hose: it is written for a finished answer.
function speak({ headline, line, badge }) {
  spoken = { headline, at: performance.now() };
  find("status").textContent = [headline, badge, line].filter(Boolean).join(" ");
}

/** While the pen moves, the headline when it is another, and not too often. */
function speakSoFar({ headline }) {
  const isDue = performance.now() - spoken.at >= SPOKEN_EVERY_MS;
  if (headline !== spoken.headline && isDue) speak({ headline });
}

function showNumbers(answer) {
  document.body.classList.toggle("is-several", answer.decision?.reason === "several_digits");
  showDoubt(doubtElements, answer);
  if (answer.input) showInput(find("seen"), answer.input);
}

function showTools() {
  find("undo").disabled = !pad.canUndo;
  find("clear").disabled = pad.isEmpty;
  showHint();
}

function showHint() {
  const isUnasked = pad.content.isUnasked === true;
  document.body.classList.toggle("is-empty", pad.isEmpty);
  document.body.classList.toggle("is-unasked", isUnasked);
  find("pad-hint").textContent = isUnasked ? "example: draw your own" : "draw here";
}

/** Shows a pass in all places; null for none. */
function showPass(pass) {
  tracks.mark(pass?.place ?? null, pass?.isAsked ? pass.probs : null);
  if (pass !== null) lesson.showPass(pass);
}

async function showPasses(question) {
  try {
    question.details ??= await fetchPasses(question.picture, question.query, question.signal);
    const { details } = question;
    if (answered !== question || phase !== "answered") return;
    tracks.showBands(details.pass_probabilities);
    passes.load(details, labels);
    lesson.showPasses(details);
  } catch {
    // The answer stands without them; if the server is gone, the next question says so.
  }
}

async function share(question) {
  const png = await inputPng(question.final.answer.input);
  if (answered !== question || phase !== "answered") return;
  // Of several digits the network saw one picture; the link would lead to another answer.
  const isWhole = question.final.answer.decision?.reason !== "several_digits";
  const hash = linkHash(png, question.query);
  // What plays unasked is played again when the page is loaded again.
  if (isWhole && !pad.content.isUnasked) history.replaceState(null, "", hash);
  find("link").textContent = isWhole ? new URL(hash, location.href).href : "";
  find("curl").textContent = isWhole ? curlCommand(png, question.query) : "Choose one digit first.";
  find("answer").textContent = plainAnswer(question.final.text);
  find("copy-link").disabled = find("copy-curl").disabled = !isWhole;
}

async function openLink() {
  const { png, query: asked } = readHash(location.hash);
  settings.query = asked;
  await useNetwork(asked.network ?? null);
  if (png !== null) pad.show(await pictureOfInput(png));
}

function listen() {
  find("undo").addEventListener("click", () => pad.undo());
  find("clear").addEventListener("click", () => pad.clear());
  find("try-now").addEventListener("click", () => asker.retry());
  listenForFiles(find("file"), async (file) => pad.show(await pictureOfFile(file)));
  addEventListener("hashchange", openLink);
  keepAddress();
  listenForCard(document.querySelectorAll(".to-card"), find("card"));
  for (const name of ["link", "curl"]) {
    buildCopyButton(find(`copy-${name}`), find(name), find("as-text"));
  }
  watchTheme(find("theme"), () => {
    pad.draw();
    if (answered !== null && !pad.isEmpty) showInput(find("seen"), answered.final.answer.input);
  });
}

/** Has another network answer; null for the server's own choice. */
async function useNetwork(name) {
  showSwitched(find("networks"), name);
  if (name === settings.network) return;
  settings.network = name;
  await loadModel();
}

async function loadModel() {
  const { network } = settings;
  try {
    const model = await fetchModel(network);
    if (network !== settings.network) return;
    const { layer_sizes: sizes, dropout_rates: rates } = model.config;
    showCard({ link: find("model"), facts: find("facts") }, model);
    settings.setOwnRates(rates);
    passes.build(sizes.slice(1, -1));
    const isOther = labels.join() !== model.config.labels.join();
    labels = model.config.labels;
    lesson.build(sizes, labels);
    if (phase === "empty" || isOther) tracks.build(labels);
  } catch (error) {
    if (network !== null && error instanceof ServerError) return useNetwork(null); // it is gone
    setTimeout(loadModel, MODEL_RETRY_MS);
  }
}

find("settings").open = matchMedia("(min-width: 700px)").matches;
tracks.build(labels);
buildExamples(find("examples"), (strokes) => pad.play(strokes, { isAtOnce: isMotionReduced() }));
listen();
empty();
await loadModel();
if (location.hash) await openLink();
buildSwitch(find("networks"), (name) => useNetwork(name).then(askAnew))
  .then(() => showSwitched(find("networks"), settings.network))
  .catch(() => {}); // one is answering
// Most visitors never touch a control: what plays by itself must teach.
if (!location.hash && phase === "empty") {
  pad.play(OPENING, { isAtOnce: isMotionReduced(), isUnasked: true });
}
