"""What a person sees of a training while it goes on: the page that is rewritten, the samples in it, Weights & Biases.

This room imports what the room around it may import.
"""
