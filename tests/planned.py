"""What a plan says of a stage, as far as a word on too little memory needs it."""

PLACEMENT = {
    "gpu": "",
    "micro_batch": 4,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "longest_row_tokens": 64,
    "activations_bytes": 4000,
    "peak_bytes": 2**30,
}
