"""The compiler's models on a PC: portable, fake-quantized, and the program itself."""
