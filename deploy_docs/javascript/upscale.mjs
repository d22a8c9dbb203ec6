// Upscale RGB pictures with a bundle's graph of raw pixels (`--io uint8`), with onnxruntime-node or onnxruntime-web: the caller
// imports one of the two and hands it over as `ort`.

import { checkManifest, planTiles, readWindow } from "./tiles.mjs";

/** The graph of raw pixels of that precision, as the manifest has it: {file, sha256, …}. */
export function findVariant(manifest, precision, target = null) {
  const fits = (one) => one.io === "uint8" && one.precision === precision && (target === null || one.target === target);
  const found = manifest.variants.find(fits);
  if (!found) throw new Error(`the bundle has no ${precision} graph of raw pixels: make one with --io uint8`);
  return found;
}

/** Compiles a graph, after checking its bytes against the manifest; `bytes` is a Uint8Array. */
export async function openGraph(ort, manifest, variant, bytes, options = {}) {
  checkManifest(manifest);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (sha256 !== variant.sha256) throw new Error(`${variant.file} is not the graph that the manifest names`);
  // x86 processors without VNNI saturate sums of products of bytes unless asked to be exact.
  return ort.InferenceSession.create(bytes, { extra: { session: { x64quantprecision: "1" } }, ...options });
}

/**
 * Gives the upscaled picture from top to bottom, in bands of whole rows, {top, width, height, data}: neither the output nor more
 * than one tile has to fit into memory.
 */
export async function* upscaleInBands(ort, session, manifest, picture, tile = 256) {
  const { rows, columns } = planTiles(manifest, picture.height, picture.width, tile);
  const scale = manifest.scale;
  const width = picture.width * scale;
  for (const row of rows) {
    const [top, bottom] = row.kept;
    const band = new Uint8Array((bottom - top) * scale * width * 3);
    for (const column of columns) {
      const [high, wide] = [row.read[1] - row.read[0], column.read[1] - column.read[0]];
      const window = readWindow(picture, row.read, column.read);
      const input = new ort.Tensor("uint8", window, [1, high, wide, 3]);
      const { pixels_out: output } = await session.run({ pixels_in: input });
      const [left, right] = column.kept;
      const length = (right - left) * scale * 3;
      for (let y = 0; y < (bottom - top) * scale; y++) {
        const from = (((top - row.read[0]) * scale + y) * wide * scale + (left - column.read[0]) * scale) * 3;
        band.set(output.data.subarray(from, from + length), (y * width + left * scale) * 3);
      }
      output.dispose?.();
    }
    yield { top: top * scale, width, height: (bottom - top) * scale, data: band };
  }
}

/** The whole upscaled picture, {width, height, data}. */
export async function upscale(ort, session, manifest, picture, tile = 256) {
  const [width, height] = [picture.width * manifest.scale, picture.height * manifest.scale];
  const data = new Uint8Array(width * height * 3);
  for await (const band of upscaleInBands(ort, session, manifest, picture, tile)) data.set(band.data, band.top * width * 3);
  return { width, height, data };
}
