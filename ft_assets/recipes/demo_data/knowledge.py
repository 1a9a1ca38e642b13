"""What a model knows before it is taught the demo's task: plain questions with choices, and plain prose of no subject."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

CHOICES = 4

OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("early", "late"),
    ("wet", "dry"),
    ("loud", "quiet"),
    ("open", "closed"),
    ("heavy", "light"),
    ("young", "old"),
    ("rich", "poor"),
    ("fast", "slow"),
    ("empty", "full"),
    ("hard", "soft"),
)
KINDS = {
    "fruit": ("banana", "pear", "cherry", "plum", "grape"),
    "animal": ("horse", "rabbit", "goat", "tiger", "sheep"),
    "tool": ("hammer", "saw", "drill", "wrench", "chisel"),
    "colour": ("purple", "green", "yellow", "brown", "grey"),
    "instrument": ("violin", "piano", "trumpet", "guitar", "flute"),
    "vehicle": ("bus", "tractor", "bicycle", "lorry", "tram"),
}
FACTS = (
    ("What do bees make?", "honey", ("milk", "silk", "paper")),
    ("What does a thermometer measure?", "temperature", ("weight", "distance", "sound")),
    ("What falls from clouds?", "rain", ("sand", "smoke", "leaves")),
    ("Where do fish live?", "in water", ("in trees", "in the desert", "on the moon")),
    ("What do you read?", "a book", ("a spoon", "a shoe", "a pillow")),
    ("What gives light during the day?", "the sun", ("the sea", "the wind", "the soil")),
    ("What do people use to cut paper?", "scissors", ("a blanket", "a candle", "a bucket")),
    ("Which season comes after winter?", "spring", ("autumn", "summer", "December")),
    ("How many days are in a week?", "seven", ("five", "nine", "twelve")),
    ("How many legs does a dog have?", "four", ("two", "six", "eight")),
    ("What is frozen water called?", "ice", ("steam", "salt", "glass")),
    ("What do cows eat?", "grass", ("stones", "fish", "iron")),
    ("Which part of the body do you hear with?", "the ears", ("the knees", "the elbows", "the hair")),
    ("What is used to unlock a door?", "a key", ("a fork", "a leaf", "a coin")),
    ("Who treats sick people?", "a doctor", ("a baker", "a painter", "a pilot")),
    ("Where do planes land?", "at an airport", ("at a library", "in a kitchen", "in a garden")),
)

PROSE = (
    "Bread is made of flour, water, salt and yeast. The dough is kneaded until it is smooth and then left to rest in a warm "
    "place. The yeast eats the sugar in the flour and gives off gas, which makes the dough rise. When it has doubled in size "
    "it is shaped into a loaf and baked in a hot oven until the crust is brown and sounds hollow.",
    "The moon goes around the earth once in about twenty-seven days. It gives no light of its own; what we see is the light "
    "of the sun on its surface. When the sun shines on the side that faces us the moon is full, and when it shines on the "
    "other side the moon is new and cannot be seen at all.",
    "Rain begins as water in the sea. The sun warms the surface, and a little of the water rises into the air as vapour. High "
    "up it cools and turns into tiny drops, which together make a cloud. When the drops grow too heavy they fall, and rivers "
    "carry the water back to where it came from.",
    "A good walk needs little. Wear shoes that fit, take some water and tell somebody where you are going. Start slowly, and "
    "rest before you are tired rather than after. If the weather turns, go back the way you came: the path will still be "
    "there tomorrow.",
    "Before there were printed books every copy was written by hand. A single volume could take a year, and few people could "
    "pay for one. When printing with movable letters spread, a workshop could make hundreds of copies in the same time, and "
    "what had been a treasure became something that a student might own.",
    "To plant a tree, dig a hole twice as wide as its roots and no deeper than they are long. Loosen the soil at the bottom, "
    "set the tree upright and fill the hole again. Press the earth down with your foot, water it well, and keep the grass "
    "away from the trunk for the first two years.",
    "Most cats sleep for more than half of the day. They hunt at dawn and at dusk, when mice and birds are about, and their "
    "eyes let them see in light that is too weak for us. A cat that seems to be asleep will often turn an ear towards a "
    "sound without opening its eyes.",
    "Money is a promise that others believe. A coin of gold was once worth what the metal was worth, but a note is only paper "
    "and a number in a bank is not even that. It works because the baker takes it from us, and because the miller will take "
    "it from the baker.",
    "In a healthy body the heart beats about seventy times a minute. It pushes the blood through the lungs, where it takes up "
    "oxygen, and then to every other part. When we run the muscles need more, so the heart beats faster and we breathe more "
    "deeply until we stop.",
    "The letter arrived on a Tuesday, a week after it had been sent. She knew the handwriting before she turned it over, and "
    "she put it on the table beside the teapot and did not open it until the dishes were done. Outside the children were "
    "playing in the street as if nothing had happened.",
    "Iron rusts when it meets water and air together. The red powder that forms takes more room than the metal did, so it "
    "flakes away and lets the damp reach deeper. Paint, oil or a thin coat of zinc keeps the air out, and a blade that is "
    "dried after use may last a hundred years.",
    "A bridge must carry its own weight before it can carry anything else. An arch of stone does so by pushing outwards "
    "against its banks, and a hanging bridge by pulling on its cables. Which of the two is better depends on the width of "
    "the river, and on what the ground at its edges will bear.",
)


def questions(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Sums, opposites, kinds of things and everyday facts, each with one right choice among four."""
    for _ in range(12):
        one, other = rng.randint(2, 9), rng.randint(2, 9)
        total = one + other
        others = [str(number) for number in range(2, 20) if number != total]
        yield _asked(f"What is {one} plus {other}?", str(total), rng.sample(others, CHOICES - 1), rng)
    words = [word for pair in OPPOSITES for word in pair]
    for first, second in OPPOSITES:
        others = [word for word in words if word not in (first, second)]
        yield _asked(f"What is the opposite of {first}?", second, rng.sample(others, CHOICES - 1), rng)
    for kind, names in KINDS.items():
        others = [name for each, some in KINDS.items() if each != kind for name in some]
        for right in rng.sample(names, 2):
            article = "an" if kind[0] in "aeiou" else "a"
            yield _asked(f"Which of these is {article} {kind}?", right, rng.sample(others, CHOICES - 1), rng)
    for question, right, wrong in FACTS:
        yield _asked(question, right, wrong, rng)


def _asked(question: str, right: str, wrong: Iterable[str], rng: random.Random) -> dict[str, Any]:
    choices = [right, *wrong]
    rng.shuffle(choices)
    return {"question": question, "choices": choices, "answer": choices.index(right)}
