"""Quantize with one peer each: what runs in the peer's own environment, as `python SCRIPT GRAPH CALIBRATION OUT SETTING`.

In goes the fp32 ONNX file and an .npz with `crops`, (N, C, H, W) float32 as the network takes them, and, where the pictures have
it, `truth`, what the network should make of them. Out comes OUT/int8.onnx, or OUT/int8.xml with its .bin beside it. The scripts
import nothing of sredge and nothing of one another.
"""
