// Drawings to try: a few points each, through which the pen passes smoothly.

import { shape } from "./tracks.js";

const POINTS_PER_PIECE = 10;

// Coordinates are hundredths of the pad. A point given twice is a corner.
const EXAMPLES = [
  { name: "a 7", strokes: [[[31, 24], [44, 23], [66, 21], [66, 21], [57, 39], [49, 60], [43, 82]]] },
  {
    name: "a 2",
    strokes: [
      [
        [33, 33], [41, 21], [54, 19], [63, 28], [61, 42], [48, 59], [30, 80], [30, 80],
        [43, 78], [56, 81], [69, 79],
      ],
    ],
  },
  {
    name: "a 4 or a 9",
    isDoubtful: true,
    strokes: [
      [[48.6, 24], [39, 28], [33, 41], [39, 51], [54, 49], [64, 40]],
      [[63, 19], [62, 36], [58, 59], [55, 82]],
    ],
  },
  {
    name: "a 1 or a 7",
    isDoubtful: true,
    strokes: [[[29, 32], [39, 29], [55, 20], [55, 20], [54, 42], [51, 62], [49, 81]]],
  },
  {
    name: "the letter A",
    isDoubtful: true,
    strokes: [
      [[26, 82], [38, 50], [49, 18], [49, 18], [62, 50], [73, 82]],
      [[36, 59], [50, 58], [63, 59]],
    ],
  },
  {
    name: "a scribble",
    isDoubtful: true,
    strokes: [
      [
        [20, 49], [24, 63], [34, 47], [36, 75], [42, 28], [59, 60], [59, 31], [78, 60], [76, 28],
      ],
    ],
  },
].map((example) => ({ ...example, strokes: example.strokes.map(smoothStroke) }));

/** What plays unasked: the drawing that two digits share. */
export const OPENING = EXAMPLES[2].strokes;

/** Makes a button for each example. @param onTry called with the strokes of the chosen one. */
export function buildExamples(group, onTry) {
  group.append(
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
      button.addEventListener("click", () => onTry(strokes));
      return button;
    }),
  );
}

/** A stroke's points as shares of the pad, 0 to 1, close enough together to look like a curve. */
function smoothStroke(percents) {
  const points = percents.map(([x, y]) => ({ x: x / 100, y: y / 100 }));
  const curve = [points[0]];
  for (let i = 0; i + 1 < points.length; i += 1) {
    const [start, end] = [points[i], points[i + 1]];
    if (start.x === end.x && start.y === end.y) continue;
    const before = points[i - 1] ?? start;
    const after = points[i + 2] ?? end;
    for (let step = 1; step <= POINTS_PER_PIECE; step += 1) {
      curve.push(catmullRom(before, start, end, after, step / POINTS_PER_PIECE));
    }
  }
  return curve;
}

/** The spline whose tangent at a point is parallel to the chord of the point's neighbours. */
function catmullRom(before, start, end, after, t) {
  const along = (axis) => {
    const [a, b, c, d] = [before[axis], start[axis], end[axis], after[axis]];
    return b + (t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))) / 2;
  };
  return { x: along("x"), y: along("y") };
}
