"""Why a quantized network loses accuracy: which unit, which input, and what to do about it."""
