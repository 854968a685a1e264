# mypy: ignore-errors
"""openai for Python: responses."""

from assignment import DATA_URL, URL, report
from openai import OpenAI

client = OpenAI(base_url=URL, api_key="none")
CHAT = [
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What colour is the circle?"},
            {"type": "input_image", "image_url": DATA_URL, "detail": "auto"},
        ],
    }
]


def main():
    first = client.responses.create(model="tiny", input=CHAT)
    with client.responses.stream(model="tiny", input=CHAT) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    turns = [*CHAT, *first.output, {"role": "user", "content": "What shape is it?"}]
    report(
        text=client.responses.create(model="tiny", input="What can you do?").output_text,
        picture=first.output_text,
        pieces=pieces,
        second_turn=client.responses.create(model="tiny", input=turns).output_text,
    )


main()
