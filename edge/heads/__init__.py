"""A detector's head: recognise how it codes boxes, cut it off where the BPU should stop, and prove the cut."""


from edge.heads.recognise import Head, given, recognise


__all__ = ["Head", "given", "recognise"]
