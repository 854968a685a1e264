// openai for JavaScript: chat completions.
import OpenAI from 'openai'
import { DATA_URL, URL, report } from './assignment.mjs'

const client = new OpenAI({ baseURL: URL, apiKey: 'none' })
const ask = (messages, options) => client.chat.completions.create({ model: 'tiny', messages, ...options })
const question = {
  role: 'user',
  content: [{ type: 'text', text: 'What colour is the circle?' }, { type: 'image_url', image_url: { url: DATA_URL } }],
}
const text = (await ask([{ role: 'user', content: 'What can you do?' }])).choices[0].message.content
const first = (await ask([question])).choices[0].message
const pieces = []
for await (const chunk of await ask([question], { stream: true })) pieces.push(chunk.choices[0].delta.content ?? '')
const turns = [question, first, { role: 'user', content: 'What shape is it?' }]
report({ text, picture: first.content, pieces, second_turn: (await ask(turns)).choices[0].message.content })
