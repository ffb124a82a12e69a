"""The effects on images, each a formula with its source: what the targets of training and tables are made by.

`sharpness`, `grain`, `colour`, `masks`, and `compose`, which applies several in a stated order.
"""
