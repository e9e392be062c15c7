// The AI SDK with both of its providers for chats: a tool that is called, and an object.
import assert from 'node:assert'
import test from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, Output, streamText, tool } from 'ai'
import { z } from 'zod'

const baseURL = `${process.env.LLAMASERVER_URL}/v1`
const settings = { baseURL, apiKey: 'x' }
const Weather = z.object({ city: z.enum(['Rome', 'Oslo']) })
const models = {
  openai: createOpenAI(settings).chat('default'),
  compatible: createOpenAICompatible({ ...settings, name: 'here', supportsStructuredOutputs: true })('default'),
}

for (const [name, model] of Object.entries(models)) {
  const asked = {
    model,
    prompt: 'What is the weather in Rome?',
    tools: { get_weather: tool({ description: 'The weather of a city', inputSchema: Weather }) },
    toolChoice: 'required',
    temperature: 0,
    maxOutputTokens: 60,
    maxRetries: 0,
  }

  test(`${name}: a call`, async () => {
    const { toolCalls, finishReason } = await generateText(asked)
    assert.equal(finishReason, 'tool-calls')
    Weather.parse(toolCalls[0].input)
  })

  test(`${name}: a stream`, async () => {
    const kinds = []
    for await (const part of streamText(asked).fullStream) kinds.push(part.type)
    assert(kinds.includes('tool-input-delta') && kinds.includes('tool-call'), kinds.join())
    assert(!kinds.includes('error'))
  })

  test(`${name}: an object`, async () => {
    const { model, prompt, temperature, maxOutputTokens } = asked
    const output = Output.object({ schema: Weather })
    Weather.parse((await generateText({ model, prompt, temperature, maxOutputTokens, output })).output)
  })
}
