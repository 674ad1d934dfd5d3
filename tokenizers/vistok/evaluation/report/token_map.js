"use strict";
// Maps of codes: an image's codes as colours, one square for each position.

function decoded(text, size) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const read = {
    1: (at) => view.getUint8(at),
    2: (at) => view.getUint16(at, true),
    4: (at) => view.getUint32(at, true),
    8: (at) => view.getBigUint64(at, true),
  }[size];
  return Array.from({ length: bytes.length / size }, (_, i) => read(i * size));
}

// Codes of one codebook at one scale: a grid of w x h positions, or rows of a sequence, which has no place in the image.
function tokenMap(data, codebook, scale) {
  const sizes = data.grids.map(([h, w]) => h * w);
  const positions = sizes.reduce((a, b) => a + b, 0);
  const own = Math.min(codebook, data.codebooks - 1), at = Math.min(scale, sizes.length - 1);
  const start = sizes.slice(0, at).reduce((a, b) => a + b, 0), end = start + sizes[at];
  const codes = decoded(data.codes, data.bytes).slice(own * positions + start, own * positions + end);
  const keep = data.keep ? decoded(data.keep, 1).slice(start, end) : codes.map(() => 1);
  const [h, w] = data.grids[at];
  const sequence = sizes.length === 1 && h === 1 && w > 1;
  const columns = sequence ? Math.min(w, 32) : w;
  const map = { codes, keep, w: columns, h: Math.ceil(codes.length / columns), sequence };
  const side = 2 ** (data.granularities - 1);
  if (data.keep && side > 1 && h % side === 0 && w % side === 0) {
    map.cells = cellsOf(keep, h, w, side);
    map.side = side;
  }
  return map;
}

// Side and first position of the cell that each position belongs to. A block of which only the first position is a
// token is one cell; any other one is divided in four.
function cellsOf(keep, h, w, largest) {
  const cells = new Array(h * w);
  const divide = (top, left, side) => {
    let tokens = 0;
    for (let y = top; y < top + side; y++) for (let x = left; x < left + side; x++) tokens += keep[y * w + x];
    if (side > 1 && tokens > 1) {
      const half = side / 2;
      for (const [y, x] of [[0, 0], [0, half], [half, 0], [half, half]]) divide(top + y, left + x, half);
      return;
    }
    for (let y = top; y < top + side; y++) {
      for (let x = left; x < left + side; x++) cells[y * w + x] = { side, first: top * w + left };
    }
  };
  for (let top = 0; top < h; top += largest) for (let left = 0; left < w; left += largest) divide(top, left, largest);
  return cells;
}

// Colours far apart for neighbouring codes: hues by the golden angle, with three lightnesses.
function colourOf(code) {
  const number = Number(typeof code === "bigint" ? code % 4294967296n : code);
  return `hsl(${((number * 137.50776) % 360).toFixed(1)} 75% ${[50, 66, 36][Math.floor(number / 97) % 3]}%)`;
}

// Draws a map into a canvas; `kind` is "codes" or "granularity".
function drawMap(canvas, map, kind) {
  const scale = Math.max(2, Math.min(16, Math.floor(512 / Math.max(map.w, map.h))));
  canvas.width = map.w * scale;
  canvas.height = map.h * scale;
  const context = canvas.getContext("2d");
  map.codes.forEach((code, i) => {
    const x = (i % map.w) * scale, y = Math.floor(i / map.w) * scale;
    const cell = map.cells ? map.cells[i] : null;
    if (kind === "granularity") {
      const side = cell ? cell.side : map.keep[i] ? 1 : 2;
      const level = map.side > 1 ? Math.log2(side) / Math.log2(map.side) : side - 1;
      context.fillStyle = `hsl(${45 + 175 * level} 85% 50%)`; // yellow where fine, blue where coarse
    } else if (cell || map.keep[i]) {
      context.fillStyle = colourOf(map.codes[cell ? cell.first : i]);
    } else {
      return; // no token here
    }
    context.fillRect(x, y, scale, scale);
    if (cell && scale > 2) { // an edge where a cell begins
      context.fillStyle = "#000";
      const own = cell.first;
      if (i % map.w === own % map.w) context.fillRect(x, y, 1, scale);
      if (Math.floor(i / map.w) === Math.floor(own / map.w)) context.fillRect(x, y, scale, 1);
    }
  });
}

// The code at a place of the map, from 0 to 1 in both directions, in words.
function codeAt(map, x, y) {
  const column = Math.min(map.w - 1, Math.max(0, Math.floor(x * map.w)));
  const row = Math.min(map.h - 1, Math.max(0, Math.floor(y * map.h)));
  const i = row * map.w + column;
  if (i >= map.codes.length) return "";
  const cell = map.cells ? map.cells[i] : null;
  if (!cell && !map.keep[i]) return "no token here";
  const code = map.codes[cell ? cell.first : i];
  const place = map.sequence ? `position ${i + 1}` : `row ${row + 1}, column ${column + 1}`;
  return `code ${code} at ${place}${cell ? `, a cell of ${cell.side} × ${cell.side}` : ""}`;
}
