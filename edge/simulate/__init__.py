"""The models of the compiler run on a PC: portable, fake-quantized, the program itself."""
