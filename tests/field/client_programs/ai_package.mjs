// The parts of the programs for the `ai` package that do not depend on its provider.
import { generateText, streamText } from 'ai'
import { BASE64, report } from './assignment.mjs'

export async function talk(model) {
  const picture = { type: 'image', image: Buffer.from(BASE64, 'base64') }
  const question = { role: 'user', content: [{ type: 'text', text: 'What colour is the circle?' }, picture] }
  const { text } = await generateText({ model, prompt: 'What can you do?' })
  const first = await generateText({ model, messages: [question] })
  const pieces = []
  for await (const piece of streamText({ model, messages: [question] }).textStream) pieces.push(piece)
  const turns = [question, ...first.response.messages, { role: 'user', content: 'What shape is it?' }]
  const second = await generateText({ model, messages: turns })
  report({ text, picture: first.text, pieces, second_turn: second.text })
}
