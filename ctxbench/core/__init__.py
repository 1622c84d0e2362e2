"""What every part of ctxbench may import; imports nothing of the rest."""
