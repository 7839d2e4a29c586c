"""The demo: labelled pictures that edge renders itself, and a network trained on them.

It stands in where neither photographs nor downloaded weights are at hand, so that float and quantized Top-1
can still be measured on pictures the network never saw.
"""

from __future__ import annotations
