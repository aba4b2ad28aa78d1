"""encoders: the only code that knows encoders.

base         the protocol and its contract, and how an encoder is found by name
pixels       slices in [0, 1] -> the normalised square that SAM's weights were trained on
sam          SAM's ViT-B, -L and -H at any input size, through the segment-anything package
sam_forward  their forward pass, in an order of arithmetic that is faster and equal to rounding
nano         the same modules at a small size: the default that needs no download
weights      checkpoints: read without executing, checked, kept on a shelf by digest
"""
