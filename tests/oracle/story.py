"""English-looking text from a small grammar, written for these fixtures, with a sprinkle of other scripts."""

import random

NAMES = """Anna Bertram Clara Dorian Edith Felix Greta Hugo Iris Jonas Klara Leander Mira Nolan Odile Piet Quentin Rosa
Silas Tilda Ulric Vera Wendel Xenia Yorick Zoe""".split()
PLACES = """the harbour,the mill,the old bridge,the market,the orchard,the lighthouse,the quiet valley,the frozen lake,
the library,the northern gate,the bakery,the railway station,the garden behind the house,the hill,the cellar""".replace(
    "\n", ""
).split(",")
THINGS = """lantern,letter,loaf of bread,basket of apples,silver key,broken clock,map,umbrella,blue scarf,wooden horse,
kettle,bundle of candles,violin,box of matches,pair of boots,wheelbarrow,jar of honey,rope,hat,drum""".replace(
    "\n", ""
).split(",")
ADJECTIVES = """small heavy curious bright forgotten gentle stubborn silent golden crooked patient narrow warm grey
wonderful ordinary hungry clever careful tired""".split()
ANIMALS = "fox,owl,cat,dog,goose,hedgehog,horse,mouse,raven,hare,otter,badger".split(",")
VERBS = """carried,found,lost,borrowed,repaired,painted,hid,remembered,described,followed,watched,counted,dropped,
sold,wanted,admired""".replace("\n", "").split(",")
WEATHER = """The rain had stopped. The wind came from the sea. Snow lay on every roof. It was the hottest day of the year.
Fog covered the fields. A thin moon stood above the trees. The morning was clear and cold. Thunder rolled far away.""".replace(
    "\n", " "
).split(". ")
SAYINGS = """Nothing is lost until you stop looking.|We shall see what the morning brings.|I don't know, and I won't guess!|
Have you ever been there?|That's the best of them all.|Come in, come in; it's cold outside.|Who would have thought it?|
You can't keep a promise in your pocket.|There's more than one way home.|I'll be back before noon.""".replace("\n", "").split(
    "|"
)
OTHER = """Das Mädchen grüßte höflich und aß süße Äpfel.|Le café était fermé, hélas, jusqu'à Noël.|El niño soñó con el mar — ¿verdad?|
日本語の文章は短いです。|今天天气很好,我们去公园。|한국어 문장도 있습니다.|Москва и Волга далеко отсюда.|Η θάλασσα ήταν ήσυχη.|
שלום לכולם|مرحبا بالعالم|They laughed 😀😂 and waved 👋🏽 at the 👩‍👩‍👧 on the boat ⛵️.|Price: €12.50 (about £11 or ¥2000).|
x² + y² = z², so √2 ≈ 1.4142…|“Quoted” – ‘twice’ — and done.|naïve façade, coöperate, Ångström, Łódź""".replace("\n", "").split(
    "|"
)


def sentence(rng: random.Random) -> str:
    a, b = rng.sample(NAMES, 2)
    place, other_place = rng.sample(PLACES, 2)
    thing, adjective, animal, verb = (rng.choice(words) for words in (THINGS, ADJECTIVES, ANIMALS, VERBS))
    number = rng.randrange(2, 2000)
    patterns = [
        f"{a} {verb} a {adjective} {thing} near {place}.",
        f"In {number}, {a} and {b} walked from {place} to {other_place} without a word.",
        f"The {animal} looked at {a}, and {a} looked at the {animal}.",
        f'"{rng.choice(SAYINGS)}" said {b}.',
        f"{rng.choice(WEATHER).rstrip('.')}.",
        f"Every day the {adjective} {animal} {verb} {a}'s {thing}, and nobody asked why.",
        f"When {a} came to {place}, {b} was already there with a {thing} and {number} questions.",
        f"There was once a {adjective} {animal} who lived under {place} and {verb} the {thing}.",
        f"{a} asked {b} where the {thing} was; {b} pointed to {place}.",
        f"Then they went home, because the {thing} was too {adjective} and the way to {place} too long.",
        f"It took {number} steps to reach {place}, or so {a} used to say.",
        rng.choice(OTHER),
    ]
    weights = [5, 4, 4, 4, 3, 4, 4, 3, 4, 3, 3, 1]
    return rng.choices(patterns, weights)[0]


def story(seed: int, characters: int) -> str:
    """Paragraphs of about the given number of characters in all."""
    rng = random.Random(seed)
    paragraphs, size = [], 0
    while size < characters:
        paragraph = " ".join(sentence(rng) for _ in range(rng.randrange(2, 9)))
        paragraphs.append(paragraph)
        size += len(paragraph) + 2
    return "\n\n".join(paragraphs)[:characters]
