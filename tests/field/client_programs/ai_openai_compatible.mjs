// The `ai` package with the provider for servers of OpenAI's protocol, which asks for chat completions.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { talk } from './ai_package.mjs'
import { URL } from './assignment.mjs'

await talk(createOpenAICompatible({ name: 'threadsight', baseURL: URL })('tiny'))
