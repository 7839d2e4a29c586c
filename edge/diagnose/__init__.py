"""Why a quantized network loses accuracy: which layer, which input, and what to do about it."""
