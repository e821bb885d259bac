"""The three architectures and how this machine computes them: device, precision, attention, compile, fused loss, FSDP.

This room imports from config, common and plugins.
"""
