"""The bundled model `tiny`: the drawn world that it knows, its training, and its evaluation.

draw.py      scenes and their pictures dialogue.py  questions as people type them, each with its one right answer sight.py     stage
0: the vision tower learns to see (dense labels for every patch) language.py  stage 0: tokenizer and language model learn the
language of the dialogues train.py     all stages, as one command evaluate.py  accuracy per kind of question on fresh pictures, as
one command
"""
