"""Measure sredge's int8 beside other quantizers: the same fp32 graph, the same pictures to calibrate and to evaluate on."""
