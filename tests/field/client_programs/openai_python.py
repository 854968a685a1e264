# mypy: ignore-errors
"""openai for Python: chat completions."""

from assignment import DATA_URL, URL, report
from openai import OpenAI

client = OpenAI(base_url=URL, api_key="none")


def ask(messages, **options):
    return client.chat.completions.create(model="tiny", messages=messages, **options)


def about(text):
    picture = {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "auto"}}
    return {"role": "user", "content": [picture, {"type": "text", "text": text}]}


def main():
    first = ask([about("What colour is the circle?")])
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask([about("What colour is the circle?")], stream=True)]
    turns = [about("What colour is the circle?"), first.choices[0].message, {"role": "user", "content": "What shape is it?"}]
    report(
        text=ask([{"role": "user", "content": "What can you do?"}]).choices[0].message.content,
        picture=first.choices[0].message.content,
        pieces=pieces,
        second_turn=ask(turns).choices[0].message.content,
    )


main()
