"""fp16 and bf16 graphs: cast, kept in range, checked."""
