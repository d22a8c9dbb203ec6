"""Measure a bundle's graphs: fp32, fp16 and int8 on every backend in; PSNR, SSIM, latency, size, memory and what really ran out."""
