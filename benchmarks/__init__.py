"""Does the shipped thing hold up? fp32, fp16 and int8 on every backend: PSNR, SSIM, latency, size, memory, and what really ran."""
