# mypy: ignore-errors
"""pydantic-ai: chat completions."""

import asyncio
import base64

from assignment import BASE64, URL, report
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

agent = Agent(OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=URL, api_key="none")))


async def main():
    question = ["What colour is the circle?", BinaryContent(base64.b64decode(BASE64), media_type="image/png")]
    first = await agent.run(question)
    async with agent.run_stream(question) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    report(
        text=(await agent.run("What can you do?")).output,
        picture=first.output,
        pieces=pieces,
        second_turn=(await agent.run("What shape is it?", message_history=first.all_messages())).output,
    )


asyncio.run(main())
