# mypy: ignore-errors
"""litellm, with its prefix for servers of OpenAI's protocol."""

from assignment import DATA_URL, URL, report
from litellm import completion


def ask(messages, **options):
    return completion(model="openai/tiny", api_base=URL, api_key="none", messages=messages, **options)


def about(text):
    return {
        "role": "user",
        "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": DATA_URL, "format": "image/png"}}],
    }


def main():
    first = ask([about("What colour is the circle?")])
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask([about("What colour is the circle?")], stream=True)]
    answer = first.choices[0].message.model_dump()
    turns = [about("What colour is the circle?"), answer, {"role": "user", "content": "What shape is it?"}]
    report(
        text=ask([{"role": "user", "content": "What can you do?"}]).choices[0].message.content,
        picture=first.choices[0].message.content,
        pieces=pieces,
        second_turn=ask(turns).choices[0].message.content,
    )


main()
