"""What is hidden: the classic sentence, and random ones nobody has seen."""

import random

from ctxbench.core.lengths import LADDER
from ctxbench.tasks.needle_grid import Needle

# gkamradt/LLMTest_NeedleInAHaystack, needlehaystack/run.py
_CLASSIC = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
CLASSIC = Needle(
    text=f"{_CLASSIC}sunny day.",
    question="What is the best thing to do in San Francisco?",
    answer="eat a sandwich and sit in Dolores Park on a sunny day",
    kind="classic",
)

_NAMES = (
    "Accra Algiers Amman Ankara Antwerp Athens Bamako Bangkok Belgrade Bergen Bilbao Bogota "
    "Bologna Brisbane Brno Bucharest Cairo Cardiff Casablanca Chennai Cologne Cork Cusco Dakar "
    "Delhi Dhaka Dublin Durban Fez Geneva Genoa Ghent Hanoi Havana Helsinki Izmir Jakarta "
    "Kampala Kyoto Lagos Leipzig Lima Lisbon Lusaka Lyon Malmo Manila Minsk Mombasa Montreal "
    "Nairobi Naples Odessa Osaka Oslo Ottawa Palermo Perth Prague Quito Riga Rotterdam Santiago "
    "Sarajevo Seoul Seville Sofia Tallinn Tbilisi Tirana Toledo Tunis Turin Utrecht Vienna "
    "Vilnius Warsaw Zagreb Zurich"
)
CITIES = tuple(_NAMES.split())


def random_needle(rng: random.Random) -> Needle:
    """Draw a city and a number of seven digits."""
    city, number = rng.choice(CITIES), str(rng.randrange(10**6, 10**7))
    return Needle(
        text=f"The secret number of {city} is {number}.",
        question=f"What is the secret number of {city}?",
        answer=number,
        kind="random",
    )


def draw(rng: random.Random, run: int, haystack) -> tuple[Needle, int]:
    """Draw a needle, the classic one in the first run, and a sentence to begin the haystack at."""
    needle = random_needle(rng) if run else CLASSIC
    # So early that the longest haystack does not reach the end of the essays, where they allow it.
    starts = haystack.sentence_starts(0, haystack.prefix(haystack.source_words))
    last = starts[-1] - max(LADDER)
    return needle, rng.choice([start for start in starts if start <= last] or starts[:1])


def draw_lceg(rng: random.Random, run: int, haystack) -> tuple[Needle, int]:
    """Return the classic needle, on lines of its own, and the beginning of the essays."""
    del rng, run, haystack
    return Needle(f"\n{CLASSIC.text}\n", CLASSIC.question, CLASSIC.answer, CLASSIC.kind), 0
