# mypy: ignore-errors
"""OpenAI's agents, which ask for responses."""

import asyncio

from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled
from assignment import DATA_URL, URL, report
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=URL, api_key="none")
agent = Agent(name="Looker", instructions="Look closely.", model=OpenAIResponsesModel("tiny", client))
CHAT = [
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What colour is the circle?"},
            {"type": "input_image", "image_url": DATA_URL, "detail": "auto"},
        ],
    }
]


async def main():
    first = await Runner.run(agent, CHAT)
    events = Runner.run_streamed(agent, CHAT).stream_events()
    raw = [event.data async for event in events if event.type == "raw_response_event"]
    turns = [*first.to_input_list(), {"role": "user", "content": "What shape is it?"}]
    report(
        text=(await Runner.run(agent, "What can you do?")).final_output,
        picture=first.final_output,
        pieces=[event.delta for event in raw if isinstance(event, ResponseTextDeltaEvent)],
        second_turn=(await Runner.run(agent, turns)).final_output,
    )


asyncio.run(main())
