"""What the programs of all clients share: arguments and report. It runs in each client's environment."""

import base64
import json
import sys

URL = sys.argv[1]
with open(sys.argv[2], "rb") as file:
    BASE64 = base64.b64encode(file.read()).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"


def report(*, text: str, picture: str, pieces: list[str], second_turn: str) -> None:
    """Print what the client got: without a picture, about one, about it in pieces, and in the next turn of that chat."""
    print(json.dumps({"text": text, "picture": picture, "pieces": pieces, "second_turn": second_turn}))
