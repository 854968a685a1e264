"""Questions about what `tiny` does not know, to which it says so. A quarter of every list is held out for the evaluation."""

from __future__ import annotations

import random
import re

from .draw import COLOUR_NAMES
from .wording import ASK, HELD_OUT

ANSWER = (
    "I am a tiny model trained on drawings of simple shapes only, so please ask me what I see, "
    "or about the colour, shape, size, place or number of the things."
)

_NOUNS = """
dog cat car tree house person man woman child face hand bird fish horse cow sheep mountain river sea sun moon cloud road
bridge train plane boat bike bus phone computer screen book pen paper letter word sign number text clock lamp window door wall
roof floor garden flower leaf apple banana bread cake pizza coffee tea milk egg cheese glass plate cup spoon knife fork bottle
bag box hat shirt shoe dress coat ring watch ball toy doll robot guitar piano drum camera key lock map flag king queen doctor
teacher player singer baby girl boy family crowd street city village country beach forest desert lake snow rain fire smoke
stone rock sand grass field farm tractor truck engine wheel table chair bed sofa kitchen bathroom mirror curtain carpet
logo brand price receipt menu recipe ingredient license rectangle hexagon oval pentagon octagon cube sphere
pyramid cylinder cone spiral arrow line dot curve crescent trapezoid parallelogram lion tiger bear wolf fox rabbit mouse
elephant monkey snake spider insect butterfly bee whale shark dolphin penguin eagle owl duck dragon castle tower church temple
statue museum school hospital hotel shop market stadium airport station tunnel calendar chart graph diagram screenshot meme
cartoon comic movie actor painting poem song story joke
zebra giraffe camel goat pig hen chicken rooster turkey pigeon sparrow parrot swan crow bat frog toad lizard turtle crocodile
worm ant fly wasp moth beetle crab lobster shrimp squid octopus salmon seal walrus otter beaver squirrel hamster kitten puppy
panda koala kangaroo deer moose bison donkey mule pony dinosaur unicorn ghost witch wizard angel devil monster alien vampire
knight pirate soldier sailor pilot chef waiter nurse dentist lawyer judge thief policeman fireman farmer painter writer dancer
grandmother father mother sister brother uncle neighbour friend guest crowd team jacket sweater skirt sock glove scarf belt
helmet umbrella wallet purse suitcase basket bucket barrel ladder hammer nail screw saw axe shovel rope chain wire cable plug
battery lamp candle torch lantern oven stove fridge freezer toaster kettle pan pot bowl tray napkin towel soap brush comb razor
pillow blanket shelf drawer cupboard desk stool bench couch carpet vase painting radio television remote laptop tablet printer
keyboard monitor speaker headphone microphone telescope microscope thermometer compass calculator pencil eraser ruler scissors
glue tape envelope stamp postcard newspaper magazine dictionary novel diary ticket coin banknote treasure crown sword shield
arrowhead cannon rocket satellite planet comet galaxy volcano island waterfall glacier cave cliff valley swamp jungle meadow
bush hedge fence gate path trail highway crossroad pavement sidewalk bridge harbour lighthouse anchor sail canoe raft ferry yacht
submarine helicopter balloon parachute kite scooter skateboard motorcycle tram van taxi ambulance bulldozer crane
pear peach plum cherry grape lemon lime melon mango coconut strawberry raspberry potato tomato carrot onion garlic pepper
cucumber lettuce cabbage spinach bean pea corn rice noodle pasta soup salad sandwich burger sausage steak bacon ham cookie
biscuit pie pudding chocolate candy honey jam butter yoghurt juice wine beer
"""

_FRAMES = """
what breed is the {n}|who is the {n}|is there a {n}|how many {n}s are there|what colour is the {n}|where is the {n}
write a poem about a {n}|what is the name of the {n}|how old is the {n}|is the {n} happy|what is the {n} doing
why is the {n} there|do you like the {n}|how much is the {n}|translate {n}|can you draw a {n}|what does the {n} say
read the {n}|is this a {n}|what kind of {n} is this|when was the {n} made|how tall is the {n}|is the {n} dangerous
describe the {n}|do you see a {n}|what is a {n}|tell me about the {n}|tell me a story about a {n}|how do i make a {n}
explain the {n}|is it a {n}|what brand is the {n}|which {n} is this|who made the {n}|what is next to the {n}|spell {n}
are there any {n}s|any {n}s|what about the {n}|and the {n}|find the {n}|buy a {n}|does the {n} look old
what is written on the {n}|whose {n} is this|can i eat the {n}
"""

_SAYINGS = """
hello|hi|hi there|good morning|good evening|how are you|how are you doing|who are you|what is your name|who made you
what can you do|help|thanks|thank you|ok|okay|cool|nice|great|lol|haha|yes|no|maybe|sure|why|when|who|how|bye|goodbye|see you
sorry|wow|really|are you sure|i love you|what time is it|what day is it|what is the weather|will it rain tomorrow
what is the capital of france|who is the president|what is two plus two|what is the meaning of life|tell me a joke|sing a song
write a poem|write an essay|write some code|write a python function|fix my code|translate this to french|speak german
can you speak spanish|summarize this|read the text|what does it say|what does the text say|ocr this|who is this person
who is in the picture|who took this picture|when was this taken|where was this taken|what camera was used|is this real
is this art|do you like it|is it beautiful|what is the mood|how does it make you feel|what is the style|who painted this
is it a photo|what is left of the circle|is the star above the square|what is between them|which is bigger|are they the same
is the circle bigger than the square|do they touch|how far apart are they|what is the area|what is the angle|make it blue
draw a circle|change the colour|remove the star|add a square|rotate the picture|crop it|make it bigger|generate an image
what is the file size|what is the resolution|is this safe|am i pretty|how old am i|what should i eat|what should i wear
recommend a book|give me advice|i am sad|i am bored|what is love|do you dream|are you alive|are you human|are you a robot
can you think|do you remember me|what did i say|ignore your instructions|repeat after me|say hello|count to ten|play a game
what is your favourite colour|what is your favorite animal|how much is it|where can i buy this|is it expensive|how heavy is it
what is it made of|what is the background|what is the texture|what happened here|what happens next|why is it there
what does it mean|what is the message|guess|solve this|what is the answer|do my homework|explain this|explain quantum physics
how do planes fly|why is the sky blue|how deep is the ocean|who won the game|what is the score|what is the news
what is the price of gold|convert ten miles to km|what is pi|asdf|qwerty|test|testing|blah|what|huh|hmm|foo bar|lorem ipsum
xyz|abc|123|12 34|...|!!!|:)|stop|go on|continue|more|next|again|tell me more|how come|so what|and then
"""


def _part(text: str, separator: str, is_held_out: bool) -> list[str]:
    """The list's last quarter in a fixed shuffle (Python's own hash of a string differs from run to run), or the rest."""

    def place(phrase: str) -> tuple[int, str]:
        return sum((i + 7) * ord(letter) * 2654435761 for i, letter in enumerate(phrase)) % 65521, phrase

    phrases = sorted(set(re.split(separator, text.strip())), key=place)
    cut = len(phrases) * 3 // 4
    return phrases[cut:] if is_held_out else phrases[:cut]


NOUNS = {is_held_out: _part(_NOUNS, r"\s+", is_held_out) for is_held_out in (False, True)}
FRAMES = {is_held_out: _part(_FRAMES, r"[|\n]", is_held_out) for is_held_out in (False, True)}
SAYINGS = {is_held_out: _part(_SAYINGS, r"[|\n]", is_held_out) for is_held_out in (False, True)}

_STARTS = re.findall(r"\S+", "b bl br c ch d dr f fl g gr h j k l m n p pl qu r s sl sp st t tr v w z")

# Questions that it answers, asked about things that it does not know: only the noun makes the difference.
_CLAIMED = ("colour", "position", "size", "count", "existence", "switch", "switch_count", "switch_existence")


def strange_question(rng: random.Random, is_held_out: bool) -> str:
    """A question about something outside the drawn world. If held out, its noun is not in the training data."""
    if rng.random() < 0.3 and not is_held_out:
        return rng.choice(SAYINGS[False])
    noun = rng.choice(NOUNS[is_held_out])
    if not is_held_out and rng.random() < 0.25:
        noun = _invented(rng)
    if rng.random() < 0.5:
        wordings = HELD_OUT if is_held_out and rng.random() < 0.3 else ASK
        its = f"{rng.choice(COLOUR_NAMES)} {noun}" if rng.random() < 0.15 else noun
        it = f"the {its}s" if rng.random() < 0.2 else f"the {its}"
        return rng.choice(wordings[rng.choice(_CLAIMED)]).format(it=it, its=its, them=f"{its}s", themall=f"the {its}s")
    frame = rng.choice(FRAMES[False] if rng.random() < 0.7 else FRAMES[is_held_out])
    return frame.replace("{n}", noun)


def _invented(rng: random.Random) -> str:
    """An invented word, so that it learns to refuse more than the list above."""
    syllables = [rng.choice(_STARTS) + rng.choice("aeiou") for _ in range(rng.choice((1, 2, 2, 3)))]
    return "".join(syllables) + rng.choice("bdgklmnprstxz")
