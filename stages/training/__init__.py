"""training: what `train` is made of.

plan        what a run will be, and what it is refused for, before anything takes time
ways        how the slices it was trained on were made
beginnings  what heads begin from: an encoder's decoder or all of it, a CNN's weights, a pretraining
"""
