"""What the compiler would choose by itself, chosen by the network's answers instead."""
