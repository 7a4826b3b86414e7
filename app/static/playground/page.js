// The playground: joins pad, questions, rows and words. Every other module does one thing alone.

import { Asker } from "./asking.js";
import { clearDoubt, showDoubt, showInput } from "./doubt.js";
import { EXAMPLES } from "./examples.js";
import { Pad } from "./pad.js";
import { Passes } from "./passes.js";
import { pictureOfFile, pictureOfInput } from "./pictures.js";
import { Playback, isMotionReduced } from "./playback.js";
import { Rows, shape } from "./rows.js";
import { fetchModel, fetchPasses } from "./api.js";
import { Settings } from "./settings.js";
import { Steps } from "./steps.js";
import { curlCommand, inputPng, linkHash, plainAnswer, readHash } from "./sharing.js";
import { watchTheme } from "./theme.js";
import { dropoutWords, wordsFor } from "./words.js";

const SETTLE_MS = 700; // without a further stroke: the drawing is done
const SPOKEN_AFTER_MS = 400; // with the settling and the playing more than a second after it
const UNTOUCHED_MS = 4000;
const MODEL_RETRY_MS = 4000;

const find = (id) => document.getElementById(id);
const findAll = (names) => Object.fromEntries(names.map((name) => [name, find(name)]));

let labels = [..."0123456789"];
let phase = "empty"; // drawing, playing, answered, failed
let computed = null; // the answer whose pale dots are being filled
let answered = null; // the last question that was played to its end
let answeredAt = null;
let strokeEndedAt = null;
let isEstimateDue = false; // in the next frame
let settling = null;
let speaking = null;

const doubtElements = {
  ...findAll(["limit"]),
  drawing: find("doubt-drawing"),
  copies: find("doubt-copies"),
  text: find("doubt-text"),
};
const rows = new Rows(find("rows"), {
  legend: find("dot-passes"),
  onChoose: (digit, number) => passes.choose(digit, number),
});
const passes = new Passes(
  {
    text: find("pass-text"),
    slider: find("pass"),
    ...findAll(["neurons", "back", "play", "forward"]),
  },
  { onShow: (place, probs) => rows.mark(place, probs) },
);
const settings = new Settings(findAll(["passes", "estimator", "within", "seed", "roll"]), {
  onChange: askAnew,
});
const steps = new Steps(findAll(["steps", "pictures"]));
const playback = new Playback({
  onEstimate: (estimate) => {
    rows.prepare(playback.total);
    rows.show(estimate, computed ?? estimate);
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

function onReplace() {
  showTools();
  if (pad.isEmpty) empty();
  else askAnew();
}

function askAnew() {
  if (!pad.isEmpty) play(asker.ask(() => pad.picture(), settings.query));
}

function enter(next) {
  clearTimeout(settling);
  clearTimeout(speaking);
  playback.stop();
  if (phase === "answered" || phase === "failed") passes.clear();
  phase = next;
  computed = null;
  find("try-now").hidden = true;
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
  rows.clear(Number(settings.query.passes) || 1);
  clearDoubt(doubtElements);
  passes.clear();
  steps.load(null);
  document.body.classList.remove("is-several");
  find("seen").getContext("2d").reset();
  find("took").textContent = "";
}

function onAnswer(question) {
  if (phase === "failed") play(question);
  if (phase !== "drawing" || isEstimateDue) return;
  isEstimateDue = true;
  requestAnimationFrame(showEstimate);
}

/** The last of the estimates that came since the last frame: only that one can be seen. */
function showEstimate() {
  isEstimateDue = false;
  const question = asker.current;
  const answer = question?.estimates.at(-1);
  if (phase !== "drawing" || answer === undefined) return;
  rows.prepare(Number(question.query.passes));
  rows.show(null, answer);
  showNumbers(answer);
  showWords({ kind: "drawing", answer });
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

function play(question) {
  enter("playing");
  computed = question.final?.answer ?? null;
  playback.total = Number(question.query.passes);
  find("rows").setAttribute("aria-busy", "true");
  playback.start(question);
}

async function finish(question) {
  const { answer } = question.final;
  phase = "answered";
  computed = null;
  answered = question;
  answeredAt = new Date().toLocaleTimeString("en-GB");
  rows.prepare(Number(question.query.passes));
  rows.show(answer);
  showNumbers(answer);
  find("rows").setAttribute("aria-busy", "false");
  const digits = question.milliseconds < 10 ? 1 : 0;
  const took = question.milliseconds.toFixed(digits);
  find("took").textContent = `answered in ${took} ms, shown slowed down`;
  const words = showWords({ kind: "answered", answer });
  speaking = setTimeout(() => speak(words), SPOKEN_AFTER_MS);
  showBoxes(answer);
  steps.load(question);
  await Promise.all([showPasses(question), share(question)]);
}

function onFailure(question, error, retryInSeconds) {
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
  const since = answered === null ? null : answeredAt;
  const words = showWords({ kind: "failed", error, since, retryInSeconds });
  if (isNew) (isGone ? warn : speak)(words);
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

// The streams would make a live region a fire hose: it is written once for a finished answer.
function speak({ headline, line, badge }) {
  find("status").textContent = [headline, badge, line].filter(Boolean).join(" ");
}

function warn({ headline }) {
  find("alert").textContent = headline;
}

function showNumbers(answer) {
  // The passes read one of them, and which is chance: no row may look like the answer.
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
  document.body.classList.toggle("is-empty", pad.isEmpty);
}

async function showPasses(question) {
  const { picture, query: asked, controller } = question;
  try {
    const details = await fetchPasses(picture, asked, controller.signal);
    if (answered !== question || phase !== "answered") return;
    rows.showBands(details.pass_probabilities);
    passes.load(details, labels);
  } catch {
    // The answer stands without them; if the server is gone, the next question says so.
  }
}

function showBoxes(answer) {
  const boxes = answer.decision?.boxes ?? [];
  find("boxes").replaceChildren(
    ...boxes.map((box, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `Read only this one, ${index + 1} of ${boxes.length}`);
      const from = pad.place(box[0], box[1]);
      const to = pad.place(box[2], box[3]);
      button.style.left = `${100 * from.x}%`;
      button.style.top = `${100 * from.y}%`;
      button.style.width = `${100 * (to.x - from.x)}%`;
      button.style.height = `${100 * (to.y - from.y)}%`;
      button.addEventListener("click", async () => pad.show(await pad.crop(box)));
      return button;
    }),
  );
}

async function share(question) {
  const png = await inputPng(question.final.answer.input);
  if (answered !== question || phase !== "answered") return;
  // Of several digits the network saw one picture; the link would lead to another answer.
  const isWhole = question.final.answer.decision?.reason !== "several_digits";
  if (isWhole) history.replaceState(null, "", linkHash(png, question.query));
  find("link").textContent = location.href;
  find("curl").textContent = isWhole ? curlCommand(png, question.query) : "Choose one digit first.";
  find("answer").textContent = plainAnswer(question.final.text);
  find("copy-link").disabled = find("copy-curl").disabled = !isWhole;
}

// What starts it

async function open(file) {
  if (file) pad.show(await pictureOfFile(file));
}

async function openLink() {
  const { png, query: asked } = readHash(location.hash);
  settings.query = asked;
  if (png !== null) pad.show(await pictureOfInput(png));
}

function buildExamples() {
  find("examples").append(
    ...EXAMPLES.map(({ name, strokes, isDoubtful }) => {
      const button = Object.assign(document.createElement("button"), { type: "button", title: name });
      button.setAttribute("aria-label", `Try ${name}`);
      button.classList.toggle("doubtful", isDoubtful === true);
      const drawing = shape("svg", { viewBox: "10 10 80 80", "aria-hidden": "true" });
      for (const stroke of strokes) {
        const d = stroke.map(({ x, y }) => `${(100 * x).toFixed(1)} ${(100 * y).toFixed(1)}`);
        drawing.append(shape("path", { d: `M${d.join("L")}` }));
      }
      button.append(drawing);
      button.addEventListener("click", () => pad.play(strokes, { isAtOnce: isMotionReduced() }));
      return button;
    }),
  );
}

function buildCopyButton(button, place) {
  button.addEventListener("click", async () => {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(place.textContent);
      button.textContent = "Copied";
    } catch {
      // Without https there is no clipboard: show what to copy, selected.
      find("as-text").open = true;
      getSelection().selectAllChildren(place);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => (button.textContent = label), 1500);
  });
}

function listen() {
  find("undo").addEventListener("click", () => pad.undo());
  find("clear").addEventListener("click", () => pad.clear());
  find("try-now").addEventListener("click", () => asker.retry());
  find("file").addEventListener("change", ({ target }) => {
    open(target.files[0]);
    target.value = ""; // so that the same file can be opened again
  });
  document.addEventListener("paste", ({ clipboardData }) => open(clipboardData.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer.files[0]);
  });
  addEventListener("hashchange", openLink);
  buildCopyButton(find("copy-link"), find("link"));
  buildCopyButton(find("copy-curl"), find("curl"));
  watchTheme(find("theme"), () => {
    pad.draw();
    if (answered !== null && !pad.isEmpty) showInput(find("seen"), answered.final.answer.input);
  });
}

/** One example plays unasked if nobody touches the page: most visitors never touch a control. */
function playUnasked() {
  if (isMotionReduced()) return;
  const timer = setTimeout(() => {
    if (phase !== "empty" || document.hidden) return;
    pad.play(EXAMPLES[2].strokes, { isAtOnce: false, isUnasked: true });
  }, UNTOUCHED_MS);
  for (const kind of ["pointerdown", "keydown", "wheel", "dragenter", "paste"]) {
    addEventListener(kind, () => clearTimeout(timer), { once: true });
  }
}

async function loadModel() {
  try {
    const model = await fetchModel();
    labels = model.config.labels;
    find("model").textContent = `Model ${model.version}`;
    find("dropped-share").textContent = `, ${dropoutWords(model.config.dropout_rates)} switched off`;
    passes.build(model.config.layer_sizes.slice(1, -1));
    if (phase === "empty") rows.build(labels);
  } catch {
    setTimeout(loadModel, MODEL_RETRY_MS);
  }
}

find("settings").open = matchMedia("(min-width: 900px)").matches;
rows.build(labels);
buildExamples();
listen();
empty();
await loadModel();
if (location.hash) await openLink();
else playUnasked();
