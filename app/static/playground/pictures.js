// Pictures on their way to the server: grey pixels as PNG, bytes as base64.
//
// A picture is what is asked about: its bytes, their type, and how the server shall read it.
// `preview` is what the pad can draw of it, or null where the browser cannot decode the file.

/** A picture of 28 x 28 values as the network saw them: asking for it again repeats the answer. */
export async function pictureOfInput(bytes) {
  const preview = await decode(new Blob([bytes], { type: "image/png" }));
  return { body: bytes, type: "image/png", preprocess: "none", preview, isInput: true };
}

/** A file as it is: the server reads more formats, and larger ones, than a browser has to. */
export async function pictureOfFile(file) {
  const type = file.type || "application/octet-stream";
  return { body: file, type, preprocess: "auto", preview: await decode(file), isInput: false };
}

/** What is on a canvas, in grey. */
export async function pictureOfCanvas(canvas) {
  const { width, height } = canvas;
  const rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i += 1) {
    grey[i] = (rgba[4 * i] * 77 + rgba[4 * i + 1] * 150 + rgba[4 * i + 2] * 29) >> 8;
  }
  const body = await encodeGreyPng(grey, width, height);
  return { body, type: "image/png", preprocess: "auto", preview: canvas, isInput: false };
}

/** Calls `onFile` with each file that is opened, dropped or pasted. */
export function listenForFiles(input, onFile) {
  const take = (files) => files.length > 0 && onFile(files[0]);
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // so that the same file can be opened again
  });
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}

async function decode(blob) {
  try {
    return await createImageBitmap(blob);
  } catch {
    return null;
  }
}

/**
 * A PNG with one byte per pixel. Written here, since `canvas.toBlob` waits for an idle moment and
 * some browsers add noise to it; the same values must give the same link.
 */
export async function encodeGreyPng(pixels, width, height) {
  const lines = new Uint8Array((width + 1) * height); // each line begins with its filter, 0
  for (let y = 0; y < height; y += 1) {
    lines.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  }
  const zipping = new CompressionStream("deflate");
  const writer = zipping.writable.getWriter();
  writer.write(lines);
  writer.close();
  // Read piece by piece: a `Response` would wait for the frame that is about to be painted.
  const pieces = [];
  for (const reader = zipping.readable.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
  }
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header[8] = 8; // bits of a sample; the colour type, 0, is grey
  const data = chunk("IDAT", joined(pieces));
  return joined([PNG_SIGNATURE, chunk("IHDR", header), data, chunk("IEND", [])]);
}

// Not with `...`: a photo has more bytes than a call may have arguments.
function joined(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let end = 0;
  for (const part of parts) {
    whole.set(part, end);
    end += part.length;
  }
  return whole;
}

const PNG_SIGNATURE = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);

function chunk(kind, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i += 1) bytes[4 + i] = kind.charCodeAt(i);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

export function toBase64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
