"""A model on another server, through OpenAI's chat-completions protocol, as vLLM, SGLang, llama.cpp, Ollama, LM Studio, hosted
services, `transformers serve` and our own server implement it (https://platform.openai.com/docs/api-reference/chat).

They differ in much that no document says. Three rules: what is optional never costs a finished answer; a cause that is known is
told; what was answered is not asked again.
"""
