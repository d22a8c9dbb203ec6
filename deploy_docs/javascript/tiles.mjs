// The tiles of a picture: what of it the graph is given at a time, so that all of them together give what the whole picture would.
//
// A network that looks `halo` pixels to each side gives an output pixel from the input pixels within `halo` of it. So a tile that
// keeps [a, b) reads [a - halo, b + halo), cut to the picture, and what it makes of the halo is left out. Windows begin at multiples
// of `step`: the graph's strides and shuffles then meet the pixels that they meet in the whole picture.

const GRID = 16; // runtime/tiles/tiling.py

const roundUp = (length, multiple) => Math.ceil(length / multiple) * multiple;
const gcd = (a, b) => (b ? gcd(b, a % b) : a);
const lcm = (a, b) => (a / gcd(a, b)) * b;

/** Throws an Error that says why this listing cannot run the bundle's network in tiles. */
export function checkManifest(manifest) {
  const { contract, halo, scale } = manifest;
  if (contract.colour !== "RGB") throw new Error(`${manifest.model} takes luma alone; this listing enlarges no chroma`);
  if (contract.pre_upscale) throw new Error(`${manifest.model} takes a picture that is enlarged already`);
  if (contract.static_shape) throw new Error(`${manifest.model} was exported for one size, ${contract.static_shape.join("x")}`);
  if (!Number.isInteger(scale)) throw new Error(`${manifest.model} enlarges by ${scale}; this listing takes whole numbers`);
  if (!Number.isInteger(halo)) throw new Error(`${manifest.model} looks at the whole picture: it cannot be run in tiles exactly`);
}

/** An axis of `length` pixels, filled up to `filled`, in pieces: {read: [start, stop], kept: [start, stop]}. */
export function cutAxis(length, { filled, tile, halo, step, least }) {
  if (tile >= length) return [{ read: [0, filled], kept: [0, length] }];
  const smallest = Math.max(least, Math.min(GRID, filled));
  const pieces = [];
  for (let start = 0; start < length; start += tile) {
    const stop = Math.min(start + tile, length);
    let first = Math.floor(Math.max(start - halo, 0) / step) * step;
    const last = Math.min(roundUp(Math.max(stop + halo, first + smallest), step), filled);
    if (last - first < smallest) first = Math.floor((last - smallest) / step) * step;
    pieces.push({ read: [first, last], kept: [start, stop] });
  }
  return pieces;
}

/** The rows and columns of the tiles of a picture; `tile` is how many pixels a side a tile keeps. */
export function planTiles(manifest, height, width, tile) {
  checkManifest(manifest);
  const { multiple_of: multiple = 1, least_side: least = 1 } = manifest.contract;
  const step = lcm(GRID, lcm(manifest.alignment ?? 1, multiple));
  const cut = (length) => {
    const filled = roundUp(Math.max(length, least), multiple);
    return cutAxis(length, { filled, tile, halo: manifest.halo, step, least });
  };
  return { rows: cut(height), columns: cut(width) };
}

/** Which pixel of `length` stands at each place of [start, stop): beyond the end the picture mirrored, or its last pixel. */
function sources(length, [start, stop], filled) {
  const last = length - 1;
  const mirrors = filled - length <= last;
  return Array.from({ length: stop - start }, (_, index) => {
    const place = start + index;
    return place <= last ? place : mirrors ? 2 * last - place : last;
  });
}

/** The window of an RGB picture that a tile reads, as one Uint8Array of (rows, columns, 3). */
export function readWindow({ data, width, height }, rows, columns) {
  const down = sources(height, rows, rows[1]);
  const across = sources(width, columns, columns[1]);
  const window = new Uint8Array(down.length * across.length * 3);
  let to = 0;
  for (const y of down) {
    for (const x of across) {
      const from = (y * width + x) * 3;
      window[to++] = data[from];
      window[to++] = data[from + 1];
      window[to++] = data[from + 2];
    }
  }
  return window;
}
