"""The `sredge` command of a checkout: every command of the workstation and of the device."""

from __future__ import annotations

from runtime.cli import COMMANDS as DEVICE_COMMANDS
from runtime.terminal import console
from runtime.terminal.commands import Command, group

COMMANDS = (
    Command("export", "export.cli", "export a network, with its weights, to ONNX, as a bundle"),
    Command("list", "export.listing", "list the networks, their scales, and the weights there are"),
    Command("train", "export.train.cli", "train a network's weights, or fine-tune them"),
    Command("quantize", "quantize.cli", "quantize a bundle's network to INT8"),
    Command("explain", "quantize.explain.cli", "say where int8 loses what it loses: layers, pictures, colours"),
    Command("engine", "export.engine.cli", "build TensorRT engines of a bundle, on the machine with the GPU"),
    Command("benchmarks", "benchmarks.cli", "measure PSNR, SSIM, latency, size and memory of a bundle's graphs"),
    Command("int8-loss", "benchmarks.int8_loss", "measure what int8 loses, beside onnxruntime's quantizer"),
    Command("throughput", "benchmarks.throughput", "measure pictures per second, files in and files out"),
    *DEVICE_COMMANDS,
)

app = group(COMMANDS, help_text="Super-resolution networks on edge accelerators: export, quantize, run, measure.")


def sredge() -> None:
    console.run(app, None, name="sredge")
