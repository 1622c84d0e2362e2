"""Exact attention kernels behind the attention methods; plan.py says what they compute."""
