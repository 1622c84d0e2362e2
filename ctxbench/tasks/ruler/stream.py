"""The random numbers of the official generator, as private and addressable streams."""

import random


class Stream(random.Random):
    """`random.Random` that knows how far it has been read, so that a sample can name its place.

    The numbers are those of `random.seed(seed)`; only the count is new.

    Attributes:
        drawn: 32-bit words drawn so far.
    """

    def __new__(cls, seed: int | str, drawn: int = 0):
        """Make one; Python 3.10 takes a seed alone here."""
        return super().__new__(cls)

    def __init__(self, seed: int | str, drawn: int = 0):
        super().__init__(seed)
        self.drawn = 0
        while self.drawn < drawn:
            self.getrandbits(32 * min(drawn - self.drawn, 1 << 16))

    def random(self) -> float:
        """Draw as the parent does: two words."""
        self.drawn += 2
        return super().random()

    def getrandbits(self, k: int) -> int:
        """Draw as the parent does: whole words."""
        self.drawn += (k + 31) // 32
        return super().getrandbits(k)
