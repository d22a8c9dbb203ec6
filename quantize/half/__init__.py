"""Make fp16 and bf16 graphs: cast, keep in range, check."""
