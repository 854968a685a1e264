# mypy: ignore-errors
"""instructor, without a schema: those need tools, which are refused by name."""

import instructor
from assignment import DATA_URL, URL, report
from openai import OpenAI

client = instructor.from_openai(OpenAI(base_url=URL, api_key="none"), mode=instructor.Mode.MD_JSON)


def ask(messages, **options):
    return client.chat.completions.create(model="tiny", messages=messages, response_model=None, **options)


def main():
    question = {"role": "user", "content": ["What colour is the circle?", instructor.Image.from_base64(DATA_URL)]}
    first = ask([question]).choices[0].message
    turns = [question, {"role": "assistant", "content": first.content}, {"role": "user", "content": "What shape is it?"}]
    report(
        text=ask([{"role": "user", "content": "What can you do?"}]).choices[0].message.content,
        picture=first.content,
        pieces=[chunk.choices[0].delta.content or "" for chunk in ask([question], stream=True)],
        second_turn=ask(turns).choices[0].message.content,
    )


main()
