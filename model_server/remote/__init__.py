"""Somebody else's model behind OpenAI's protocol."""
