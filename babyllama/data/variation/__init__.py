"""What differs from epoch to epoch: the documents' order, their cuts into segments, noise on the input tokens.

All of it is a function of the seed, the epoch and the place in the epoch, so a resumed run and several processes see
what the unbroken single one sees. May import what the room `data` may import.
"""
