# mypy: ignore-errors
"""llm, whose models of other servers are a file."""

import base64
import os
import pathlib
import tempfile

from assignment import BASE64, URL, report

folder = tempfile.mkdtemp()
os.environ["LLM_USER_PATH"] = folder
model_file = f"- model_id: tiny\n  model_name: tiny\n  api_base: {URL}\n  vision: true\n"
pathlib.Path(folder, "extra-openai-models.yaml").write_text(model_file)

import llm  # noqa: E402


def main():
    model = llm.get_model("tiny")
    model.key = "none"
    picture = [llm.Attachment(type="image/png", content=base64.b64decode(BASE64))]
    chat = model.conversation()
    report(
        text=model.prompt("What can you do?", stream=False).text(),
        picture=chat.prompt("What colour is the circle?", attachments=picture, stream=False).text(),
        pieces=list(model.prompt("What colour is the circle?", attachments=picture)),
        second_turn=chat.prompt("What shape is it?", stream=False).text(),
    )


main()
