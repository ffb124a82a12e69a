"""Data: the embedded pack, readers of users' images and of published data sets, degradations.

In reading order: `images` (a tensor of a file, an image object or an array, and back; batches and masks for pipelines;
`decoding`: what Pillow opens), `pack`, `degradations` (`wetglass`), `grain` (of film), `files` (pairs of folders and
lists, read on demand, crops), `datasets` (published ones: layouts, readers, `repro data check`).
"""
