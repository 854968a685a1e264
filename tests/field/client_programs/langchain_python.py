# mypy: ignore-errors
"""langchain-openai."""

from assignment import BASE64, URL, report
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="tiny", base_url=URL, api_key="none")
PICTURE = {"type": "image", "base64": BASE64, "mime_type": "image/png"}


def main():
    question = HumanMessage(content=[{"type": "text", "text": "What colour is the circle?"}, PICTURE])
    first = model.invoke([question])
    report(
        text=model.invoke("What can you do?").text,
        picture=first.text,
        pieces=[chunk.text for chunk in model.stream([question])],
        second_turn=model.invoke([question, first, HumanMessage("What shape is it?")]).text,
    )


main()
