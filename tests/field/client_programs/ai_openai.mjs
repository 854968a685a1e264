// The `ai` package with OpenAI's provider, which asks for responses.
import { createOpenAI } from '@ai-sdk/openai'
import { talk } from './ai_package.mjs'
import { URL } from './assignment.mjs'

await talk(createOpenAI({ baseURL: URL, apiKey: 'none' })('tiny'))
