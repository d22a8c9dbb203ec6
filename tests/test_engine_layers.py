"""The engine inspector's JSON, as TensorRT's documentation and its users' reports have it for 10 and for 11."""

from __future__ import annotations

import json

import pytest

from runtime.backends.backend import LayerPrecision
from runtime.backends.tensorrt_layers import parse_layers
from runtime.errors import PipelineError

# What trtexec --exportLayerInfo wrote on GitHub (NVIDIA/TensorRT issues 4020, 3737, 2418), shortened.
TEN = r"""
{"Layers": [{
  "Name": "Reformatting CopyNode for Input Tensor 0 to conv0 + relu0",
  "LayerType": "Reformat",
  "Inputs": [{"Name": "data", "Location": "Device", "Dimensions": [1,3,224,224], "Format/Datatype": "Row major linear FP32"}],
  "Outputs": [{"Name": "Reformatted Input Tensor 0 to conv0 + relu0", "Location": "Device", "Dimensions": [1,3,224,224],
    "Format/Datatype": "Row major Int8 format"}],
  "ParameterType": "Reformat", "Origin": "REFORMAT", "TacticValue": "0x00000000000003e8", "StreamId": 0, "Metadata": ""
},{
  "Name": "conv0 + relu0",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "data", "Location": "Device", "Dimensions": [1,128,40,40],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
  "Outputs": [{"Name": "y", "Location": "Device", "Dimensions": [1,144,40,40],
    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
  "ParameterType": "Convolution", "Kernel": [3,3], "Weights": {"Type": "Int8", "Count": 165888},
  "Bias": {"Type": "Float", "Count": 144}, "Activation": "RELU", "StreamId": 0, "Metadata": ""
},{
  "Name": "conv1 || conv2",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "y", "Dimensions": [1,144,40,40], "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
  "Outputs": [{"Name": "z", "Dimensions": [1,64,1,1], "Format/Datatype": "Row major linear FP32"}],
  "ParameterType": "Convolution", "Weights": {"Type": "Half", "Count": 9}, "TacticName": "sm80_xmma_fprop"
},{
  "Name": "__myl_MulAdd_myl0_1",
  "LayerType": "kgen",
  "Inputs": [{"Name": "z", "Dimensions": [1,64], "Format/Datatype": "Float"}],
  "Outputs": [{"Name": "t", "Dimensions": [1,64], "Format/Datatype": "Half"}],
  "TacticName": "__myl_MulAdd_0x1", "StreamId": 0, "Metadata": "[ONNX Layer: scale]\u001e[ONNX Layer: conv3]"
},{
  "Name": "conv3_myl0_2",
  "LayerType": "gemm",
  "Inputs": [{"Name": "t", "Dimensions": [1,64], "Format/Datatype": "BFloat16"}],
  "Outputs": [],
  "TacticName": "sm80_xmma_gemm_bf16", "Metadata": "[ONNX Layer: conv3]"
}],
"Bindings": ["data", "z"]}
"""
# The documented form of 11: "Bindings" became "I/O Tensors", and "Format/Datatype" two fields.
ELEVEN = r"""
{"Layers": [{
  "Name": "conv0 + relu0",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "input_0", "Location": "Device", "Dimensions": [1,3,224,224],
    "Format": "Thirty-two wide channel vectorized row major format (kCHW32)", "Datatype": "Int8"}],
  "Outputs": [{"Name": "y", "Location": "Device", "Dimensions": [1,64,224,224], "Format": "Row major linear (kLINEAR)",
    "Datatype": "Half"}],
  "StreamId": 0, "Metadata": "[ONNX Layer: conv0]\u001e[ONNX Layer: relu0]"
},{
  "Name": "conv1",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "y", "Location": "Device", "Dimensions": [1,64,224,224], "Format": "Row major linear FP32 format (kLINEAR)",
    "DataType": "Float"}],
  "Outputs": [], "Metadata": "[ONNX Layer: conv1]"
}],
"I/O Tensors": [{
  "Name": "input_0", "IOMode": "Input", "DataType": "Float", "Dimensions": [1, 3, 224, 224], "Location": "Device",
  "IsShapeInferenceIO": false,
  "ProfileInfo": [{"MinShape": [1,3,224,224], "OptShape": [1,3,224,224], "MaxShape": [1,3,224,224],
    "Format": "Row major linear FP32 format (kLINEAR)"}]
}]}
"""


def test_the_layers_of_10_are_read() -> None:
    assert parse_layers(TEN) == (
        LayerPrecision("conv0", "CaskConvolution", "int8"),
        LayerPrecision("relu0", "CaskConvolution", "int8"),
        LayerPrecision("conv1", "CaskConvolution", "fp16"),
        LayerPrecision("conv2", "CaskConvolution", "fp16"),
        LayerPrecision("scale", "kgen", "fp32"),
        LayerPrecision("conv3", "gemm", "bf16"),  # not what the layer before it, which it shares, reads
    )


def test_the_layers_of_11_are_read() -> None:
    assert parse_layers(ELEVEN) == (
        LayerPrecision("conv0", "CaskConvolution", "int8"),
        LayerPrecision("relu0", "CaskConvolution", "int8"),
        LayerPrecision("conv1", "CaskConvolution", "fp32"),
    )


@pytest.mark.parametrize("both", ["N/A due to dynamic shapes", "", "Row major linear FP8 format"])
def test_a_type_that_is_not_told_or_not_ours_is_called_other(both: str) -> None:
    layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": both}]}
    assert parse_layers(json.dumps({"Layers": [layer]})) == (LayerPrecision("conv", "CaskConvolution", "other"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"Layers": ["conv0 + relu0"]}',
        '{"Layers": [{"Name": "conv0"}]}',
        '{"Layers": [{"LayerType": 3}]}',
        "[" * 99999,
    ],
    ids=["empty", "null", "a list", "names alone", "no type", "no name", "too deep"],
)
def test_text_that_tells_no_types_says_what_to_do(text: str) -> None:
    with pytest.raises(PipelineError, match="tells nothing") as caught:
        parse_layers(text)
    assert "python -m export.engine" in caught.value.hint
