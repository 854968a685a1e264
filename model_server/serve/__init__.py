"""Our model behind OpenAI's protocol."""
