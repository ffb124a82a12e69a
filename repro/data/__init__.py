"""Data: the embedded pack, readers of users' images and of published data sets, degradations, crops.

In reading order: `images` (a tensor of a file, an image object or an array, and back), `inputs` (batches, colour
profiles, masks), `pack`, `crops`; `degradations` (`lowlight`, `wetglass`, and `raindrops` for older networks); `flist`
(pairs from folders and lists), `filesets` (read on demand), `datasets` (published ones: layouts, readers), `commands`.
"""
