"""What every platform with threads does alike: which messages are ours, in which order they are dealt with, what is shown of an
answer, and what happens after an absence. `dispatcher.py` is the way in."""
