"""Serves our model with OpenAI's protocol."""
