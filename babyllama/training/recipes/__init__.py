"""Parts of a training recipe that are off by default: averages of the weights, cooldown branches.

Each is a module that the pipeline (train.py) calls once. They may import what the room `training` may import.
"""
