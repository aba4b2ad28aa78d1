"""encoders: the only code that knows encoders.

base         the protocol and its contract, and how an encoder is found by name
pixels       slices in [0, 1] -> the square that weights expect: SAM's rules, and those of papers
sam          SAM's ViT-B, -L and -H at any input size, through the segment-anything package
sam_forward  their forward pass, in an order of arithmetic that is faster and equal to rounding
nano         the same modules at a small size: the default that needs no download
transformers_models  SAM 2.1, SAM-HQ, DINOv2 and other ViTs, from folders of the Hugging Face hub

train_nano   trains nano on random pictures, in a folder that any interruption leaves usable
nano_objective    what it asks of an embedding: prompts, parts, and likeness across subjects
starting_values   what it begins with, so that it learns in an hour

devices      which device, and in which precision
compute      what rows are computed by: decided once a recipe
memory       kept between slices, counted, and what is said when it runs out
measuring    how fast an encoder is on the machine at hand, and how exact

checkpoints  a file of weights: read without executing, out of every wrapping, under SAM's own names
digests      what files and tensors of weights are known by
shelf        the user's checkpoints, kept by digest
catalogue    published checkpoints: where each lies, and its pinned digest
download     a file from an address: resumed, by one process at a time, never half there
room         room on the disk of the shelf
weights      published weights, from shelf, mirror or official place, their digest checked
"""
