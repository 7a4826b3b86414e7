// The drawing pad: strokes of mouse, touch, pen or keyboard, or a picture, and its history.

import { pictureOfCanvas } from "./pictures.js";

const PEN_WIDTH = 0.068; // of the pad's side: on a digit of usual size, MNIST's stroke weight
const SENT_SIDE = 140; // pixels of the drawing that is sent: five for each that the network sees
const GRID = 28; // cells of the keyboard's pen
const EXAMPLE_POINTS_PER_FRAME = 2;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * The pad. What is on it is `content`: strokes (lists of points, shares of the side) or a picture.
 *
 * @param onStroke called while a stroke is drawn.
 * @param onStrokeEnd called when one ends, with the time of the event.
 * @param onReplace called when the content is another: undone, cleared, opened.
 */
export class Pad {
  constructor(canvas, { onStroke, onStrokeEnd, onReplace }) {
    this.canvas = canvas;
    this.onStroke = onStroke;
    this.onStrokeEnd = onStrokeEnd;
    this.onReplace = onReplace;
    this.content = { strokes: [], picture: null };
    this.history = [];
    this.stroke = null;
    this.example = null; // the frame in which an example is drawn further
    this.pen = { isOn: false, x: GRID / 2, y: GRID / 4, isDown: false };
    this.#listen();
    new ResizeObserver(() => this.#fit()).observe(canvas);
  }

  get isEmpty() {
    return this.content.strokes.length === 0 && this.content.picture === null;
  }

  get canUndo() {
    return this.history.length > 0;
  }

  /** What the server shall look at: the opened picture as it is, or the drawing. */
  async picture() {
    return this.content.picture ?? pictureOfCanvas(this.#paper(SENT_SIDE));
  }

  show(picture) {
    this.#replace({ strokes: [], picture });
  }

  clear() {
    if (!this.isEmpty) this.#replace({ strokes: [], picture: null });
  }

  undo() {
    this.#stopExample();
    if (!this.canUndo) return;
    this.stroke = null;
    this.pen.isDown = false;
    this.content = this.history.pop();
    this.draw();
    this.onReplace();
  }

  /**
   * Draws an example as a hand would.
   *
   * @param isAtOnce motion is not wanted.
   * @param isUnasked nobody wants to draw on in it: the next stroke begins a new sheet.
   */
  play(strokes, { isAtOnce, isUnasked = false }) {
    this.#stopExample();
    this.#remember();
    this.content = { strokes: isAtOnce ? [...strokes] : [], picture: null, isUnasked };
    this.draw();
    if (isAtOnce) {
      this.onStrokeEnd(performance.now());
      return;
    }
    const points = strokes.flatMap((stroke, index) => stroke.map((point) => ({ index, point })));
    let drawn = 0;
    const step = () => {
      for (const { index, point } of points.slice(drawn, drawn + EXAMPLE_POINTS_PER_FRAME)) {
        (this.content.strokes[index] ??= []).push(point);
      }
      drawn += EXAMPLE_POINTS_PER_FRAME;
      this.draw();
      const isDone = drawn >= points.length;
      this.example = isDone ? null : requestAnimationFrame(step);
      if (isDone) this.onStrokeEnd(performance.now());
      else this.onStroke();
    };
    step();
  }

  /** The part of the content in a box `[left, top, right, bottom]`, in pixels of what was sent. */
  async #crop([left, top, right, bottom]) {
    const whole = this.content.picture?.preview ?? this.#paper(SENT_SIDE);
    const margin = Math.round(0.15 * Math.max(right - left, bottom - top));
    const cut = makeCanvas(right - left + 2 * margin, bottom - top + 2 * margin);
    const context = cut.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, cut.width, cut.height);
    const size = [right - left, bottom - top];
    context.drawImage(whole, left, top, ...size, margin, margin, ...size);
    return pictureOfCanvas(cut);
  }

  /** Where a point of what was sent lies on the pad: shares of its side. */
  #place(x, y) {
    const preview = this.content.picture?.preview;
    if (!preview) return { x: x / SENT_SIDE, y: y / SENT_SIDE };
    const fit = fitInside(preview);
    return { x: fit.x + (x / preview.width) * fit.width, y: fit.y + (y / preview.height) * fit.height };
  }

  /** Frames what was found, each a button that leaves only its own part. */
  showBoxes(layer, boxes) {
    layer.replaceChildren(
      ...boxes.map((box, index) => {
        const button = Object.assign(document.createElement("button"), { type: "button" });
        button.setAttribute("aria-label", `Read only this one, ${index + 1} of ${boxes.length}`);
        const [from, to] = [this.#place(box[0], box[1]), this.#place(box[2], box[3])];
        const percent = (share) => `${100 * share}%`;
        Object.assign(button.style, { left: percent(from.x), top: percent(from.y) });
        Object.assign(button.style, { width: percent(to.x - from.x), height: percent(to.y - from.y) });
        button.addEventListener("click", async () => this.show(await this.#crop(box)));
        return button;
      }),
    );
  }

  /** Draws everything anew, in the colours of the theme. */
  draw() {
    const { canvas } = this;
    const context = canvas.getContext("2d");
    const side = canvas.width;
    context.clearRect(0, 0, side, side);
    const { strokes, picture } = this.content;
    const style = getComputedStyle(canvas);
    if (picture?.preview) drawPicture(context, picture, side, style);
    context.strokeStyle = context.fillStyle = style.color;
    for (const stroke of strokes) drawStroke(context, stroke, side);
    if (this.pen.isOn) this.#drawPen(context, side, style);
  }

  /** The drawing in black on white. */
  #paper(side) {
    const paper = makeCanvas(side, side);
    const context = paper.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, side, side);
    context.strokeStyle = context.fillStyle = "#000";
    for (const stroke of this.content.strokes) drawStroke(context, stroke, side);
    return paper;
  }

  #fit() {
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (side === this.canvas.width || side === 0) return;
    this.canvas.width = this.canvas.height = side;
    this.draw();
  }

  #remember() {
    this.history.push({ ...this.content, strokes: [...this.content.strokes] });
  }

  #replace(content) {
    this.#stopExample();
    this.#remember();
    this.content = content;
    this.draw();
    this.onReplace();
  }

  #stopExample() {
    if (this.example !== null) cancelAnimationFrame(this.example);
    this.example = null;
  }

  #begin(point) {
    this.#stopExample();
    this.#remember();
    this.stroke = [point];
    // Drawing on a photo would leave nobody knowing what is sent: a stroke begins a new sheet.
    const kept = this.content.isUnasked ? [] : this.content.strokes;
    this.content = { strokes: [...kept, this.stroke], picture: null };
    this.#moved();
  }

  #moved() {
    this.draw();
    this.onStroke();
  }

  #end(time) {
    this.stroke = null;
    this.draw();
    this.onStrokeEnd(time);
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.stroke !== null) return;
      canvas.setPointerCapture(event.pointerId);
      this.pen.isOn = false;
      this.#begin(this.#pointOf(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.stroke === null || !canvas.hasPointerCapture(event.pointerId)) return;
      // Missing on plain http outside localhost.
      const events = event.getCoalescedEvents?.() ?? [];
      this.stroke.push(...(events.length > 0 ? events : [event]).map((one) => this.#pointOf(one)));
      this.#moved();
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => {
        if (this.stroke !== null && canvas.hasPointerCapture(event.pointerId)) {
          this.#end(event.timeStamp);
        }
      });
    }
    // A quick stroke would count as a fling, which swallows the next tap.
    canvas.addEventListener("touchmove", (event) => event.preventDefault(), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#leave(performance.now()));
  }

  #pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  #key(event) {
    const { pen } = this;
    if ((event.ctrlKey || event.metaKey) && event.key === "z") this.undo();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (!pen.isOn && event.key === "Enter") pen.isOn = true;
    else if (!pen.isOn) return;
    else if (event.key in ARROWS) this.#movePen(...ARROWS[event.key]);
    else if (event.key === " ") this.#togglePen(event.timeStamp);
    else if (event.key === "Escape") this.#leave(event.timeStamp);
    else return;
    event.preventDefault();
    this.draw();
  }

  #movePen(dx, dy) {
    const { pen } = this;
    pen.x = Math.min(Math.max(pen.x + dx, 0), GRID - 1);
    pen.y = Math.min(Math.max(pen.y + dy, 0), GRID - 1);
    if (!pen.isDown) return;
    this.stroke.push(this.#penPoint());
    this.#moved();
  }

  #togglePen(time) {
    this.pen.isDown = !this.pen.isDown;
    if (this.pen.isDown) this.#begin(this.#penPoint());
    else this.#end(time);
  }

  #leave(time) {
    const { pen } = this;
    if (!pen.isOn) return;
    pen.isOn = false;
    if (pen.isDown) this.#togglePen(time);
    this.draw();
  }

  #penPoint() {
    return { x: (this.pen.x + 0.5) / GRID, y: (this.pen.y + 0.5) / GRID };
  }

  #drawPen(context, side, style) {
    const { x, y } = this.#penPoint();
    context.beginPath();
    context.arc(x * side, y * side, (PEN_WIDTH * side) / 2 + 3, 0, 2 * Math.PI);
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = style.caretColor;
    context.stroke();
    if (this.pen.isDown) return;
    context.beginPath();
    context.arc(x * side, y * side, 2 * devicePixelRatio, 0, 2 * Math.PI);
    context.fillStyle = style.caretColor;
    context.fill();
  }
}

function makeCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function drawStroke(context, points, side) {
  context.lineWidth = PEN_WIDTH * side;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(points[0].x * side, points[0].y * side);
  // Through the middles of the pieces, which rounds the corners of a fast hand.
  for (let i = 1; i + 1 < points.length; i += 1) {
    const [x, y] = [points[i].x * side, points[i].y * side];
    const next = points[i + 1];
    context.quadraticCurveTo(x, y, (x + next.x * side) / 2, (y + next.y * side) / 2);
  }
  const last = points.at(-1);
  context.lineTo(last.x * side + 0.01, last.y * side); // a line of no length would not be drawn
  context.stroke();
}

/** Where a picture lies inside the square, whole and centred, in shares of the side. */
function fitInside({ width, height }) {
  const longest = Math.max(width, height);
  const [w, h] = [width / longest, height / longest];
  return { x: (1 - w) / 2, y: (1 - h) / 2, width: w, height: h };
}

function drawPicture(context, picture, side, style) {
  const fit = fitInside(picture.preview);
  const box = [fit.x * side, fit.y * side, fit.width * side, fit.height * side];
  context.imageSmoothingEnabled = !picture.isInput;
  context.drawImage(picture.preview, ...box);
  if (!picture.isInput) return;
  // White ink on black, as the network sees it: on a light pad the other way round.
  const isLight = Number(style.color.match(/\d+/)[0]) < 128;
  context.globalCompositeOperation = isLight ? "difference" : "lighten";
  context.fillStyle = isLight ? "#fff" : style.backgroundColor;
  context.fillRect(...box);
  context.globalCompositeOperation = "source-over";
}
