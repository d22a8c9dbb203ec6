// node upscale_ppm.mjs PACKAGE BUNDLE PRECISION TILE IN.ppm OUT.ppm, PACKAGE being onnxruntime-node or onnxruntime-web

import { closeSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { argv, exit } from "node:process";

import { findVariant, openGraph, upscaleInBands } from "./upscale.mjs";

function readPpm(path) {
  const bytes = readFileSync(path);
  const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.subarray(0, 64).toString("latin1"));
  const [width, height] = header ? [Number(header[1]), Number(header[2])] : [0, 0];
  const data = header ? bytes.subarray(header[0].length) : bytes;
  if (!width || !height || data.length !== width * height * 3) throw new Error(`${path}: expected a binary 8-bit PPM`);
  return { width, height, data };
}

async function main([name, bundle, precision, tile, source, result]) {
  const loaded = await import(name);
  const ort = loaded.default ?? loaded;
  const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
  const variant = findVariant(manifest, precision);
  const session = await openGraph(ort, manifest, variant, new Uint8Array(readFileSync(join(bundle, variant.file))));
  const picture = readPpm(source);
  const file = openSync(`${result}.part`, "w");
  writeSync(file, `P6\n${picture.width * manifest.scale} ${picture.height * manifest.scale}\n255\n`);
  for await (const band of upscaleInBands(ort, session, manifest, picture, Number(tile))) writeSync(file, band.data);
  closeSync(file);
  renameSync(`${result}.part`, result);
}

main(argv.slice(2)).catch((error) => {
  console.error(`error: ${error.message}`);
  exit(2);
});
