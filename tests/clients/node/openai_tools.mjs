// OpenAI's client: a call, whole and streamed, checked by zod.
import assert from 'node:assert'
import test from 'node:test'
import OpenAI from 'openai'
import { zodFunction } from 'openai/helpers/zod'
import { z } from 'zod'

const client = new OpenAI({ baseURL: `${process.env.LLAMASERVER_URL}/v1`, apiKey: 'x', maxRetries: 0 })
const Weather = z.object({ city: z.enum(['Rome', 'Oslo']), days: z.literal([1, 2]) })
const asked = {
  model: 'default',
  messages: [{ role: 'user', content: 'What is the weather in Rome?' }],
  tools: [zodFunction({ name: 'get_weather', parameters: Weather })],
  tool_choice: 'required',
  temperature: 0,
  max_tokens: 60,
}

test('a parsed call', async () => {
  const { choices: [choice] } = await client.chat.completions.parse(asked)
  assert.equal(choice.finish_reason, 'tool_calls')
  Weather.parse(choice.message.tool_calls[0].function.parsed_arguments)
})

test('a stream', async () => {
  const message = await client.chat.completions.stream(asked).finalMessage()
  Weather.parse(JSON.parse(message.tool_calls[0].function.arguments))
})
