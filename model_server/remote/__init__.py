"""A model on another server, through OpenAI's protocol."""
