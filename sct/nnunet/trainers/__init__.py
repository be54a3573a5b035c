"""Modules that nnU-Net searches for trainers: nothing else may lie here, since it imports all of them."""
