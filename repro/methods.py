"""Every method, in the notebooks' order: importing its study registers it with the engine."""
# ruff: noqa: F401, I001

import repro.ddpm.study
import repro.editing.study
import repro.rddm.study
import repro.ucdir.study
import repro.adir.study
