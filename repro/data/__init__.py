"""Pictures: the embedded pack, readers of users' images and of the real data sets, deterministic crops.

In reading order: `pack` (the embedded images), `images`, `inputs`, `metadata` and `writing` (files of users),
`crops`, `degradations` with `lowlight`, `raindrops`, `wetglass`, `motionblur` and `jpeg`, `flist` and `filesets`
(pairs of folders, read on demand), `published` and `datasets` (data sets of the papers), `commands` (`repro data`).
"""
