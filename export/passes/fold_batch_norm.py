"""Fold BatchNormalization into the convolution before it; at inference it is affine per channel:

    γ (W x + b − μ) / √(σ² + ε) + β = (s W) x + s (b − μ) + β,  s = γ / √(σ² + ε)   (Ioffe & Szegedy 2015, arXiv 1502.03167).

onnxscript's own rules do it.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule


def fold_batch_norm(model: ir.Model) -> tuple[ir.Model, str]:
    before = _count(model)
    RewritePass([fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule])(model)
    return model, f"{before - _count(model)} folded"


def _count(model: ir.Model) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph)
