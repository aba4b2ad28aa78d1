"""Find the slices of a workspace that are most like a given one, by their embeddings, in numpy.

python embeddings_in_numpy.py WORKSPACE
"""

import sys

import numpy as np

import samkit

workspace = samkit.open_workspace(sys.argv[1])
embeddings = workspace.embeddings()  # the newest recipe; or by an encoder's name, or a recipe's id
places = [(volume.id, position) for volume in workspace.volumes.values() for position in range(len(volume.image))]

# The mean over the grid describes a slice; rows are float16 as they are stored.
described = np.concatenate([embeddings[name].mean(axis=(2, 3), dtype=np.float32) for name in workspace.volumes])
described -= described.mean(axis=0)
described /= np.linalg.norm(described, axis=1, keepdims=True)

asked = len(places) // 2
nearest = np.argsort(-described @ described[asked])
for place in nearest[:5]:
    volume_id, position = places[place]
    sys.stdout.write(f"{volume_id} slice {position + 1}: {described[place] @ described[asked]:.3f}\n")
