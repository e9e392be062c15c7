// The AI SDK with @ai-sdk/openai, whose models use the Responses API.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, Output, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

globalThis.AI_SDK_LOG_WARNINGS = false
const bodies = []
const openai = createOpenAI({
  baseURL: `${process.env.LLAMASERVER_URL}/v1`,
  apiKey: 'x',
  fetch: (url, options) => {
    bodies.push({ url, ...JSON.parse(options.body) })
    return fetch(url, options)
  },
})
const model = openai('default')
const brief = { temperature: 0, maxOutputTokens: 30, maxRetries: 0 }
// Events that the SDK's schemas do not list. It passes over them, also when OpenAI sends them.
const UNLISTED = [
  'response.content_part.added',
  'response.content_part.done',
  'response.output_text.done',
  'response.function_call_arguments.done',
]
const LISTED = [
  'response.created',
  'response.in_progress',
  'response.output_item.added',
  'response.output_item.done',
  'response.output_text.delta',
  'response.function_call_arguments.delta',
  'response.completed',
  'response.incomplete',
]
const weather = tool({
  description: 'The weather of a city',
  inputSchema: z.object({ city: z.enum(['Rome', 'Oslo']) }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
})

test('a stream with a tool and its result', async () => {
  const result = streamText({
    model,
    ...brief,
    maxOutputTokens: 60,
    prompt: 'How is the weather in Rome?',
    tools: { weather },
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
    includeRawChunks: true,
    onError: ({ error }) => {
      throw error
    },
  })
  const parts = []
  for await (const part of result.fullStream) parts.push(part)
  const kinds = new Set(parts.map((part) => part.type))
  for (const kind of ['tool-input-start', 'tool-input-delta', 'tool-call', 'tool-result', 'text-delta', 'finish'])
    assert(kinds.has(kind), kind)
  assert(!kinds.has('error'))
  for (const part of parts)
    if (part.type === 'raw') assert([...LISTED, ...UNLISTED].includes(part.rawValue.type), part.rawValue.type)
  const [first, second] = await result.steps
  assert.equal(first.finishReason, 'tool-calls')
  assert(['Rome', 'Oslo'].includes(first.toolCalls[0].input.city))
  assert(second.text)
  assert((await result.totalUsage).outputTokens > 0)
  assert.match((await result.response).id, /^resp_/)
  assert(bodies.every((body) => body.url.endsWith('/v1/responses')))
})

test('a second turn refers to the first by ids, or sends it whole', async () => {
  for (const store of [true, false]) {
    const providerOptions = { openai: { store } }
    const first = await generateText({ model, ...brief, prompt: 'My name is Ada.', providerOptions })
    const messages = [
      { role: 'user', content: 'My name is Ada.' },
      ...first.response.messages,
      { role: 'user', content: 'What is my name?' },
    ]
    const second = await generateText({ model, ...brief, messages, providerOptions })
    assert.equal(bodies.at(-1).input[1].type === 'item_reference', store)
    assert(second.usage.inputTokens > first.usage.inputTokens + 10)
  }
})

test('a previous response', async () => {
  const first = await generateText({ model, ...brief, prompt: 'My name is Ada.' })
  const providerOptions = { openai: { previousResponseId: first.providerMetadata.openai.responseId } }
  const second = await generateText({ model, ...brief, prompt: 'What is my name?', providerOptions })
  assert(second.usage.inputTokens > first.usage.inputTokens + 10)
})

test('an object', async () => {
  const output = Output.object({ schema: z.object({ colour: z.enum(['red', 'blue']), bright: z.boolean() }) })
  const result = await generateText({ model, ...brief, prompt: 'Which colour has the sky?', output })
  assert(['red', 'blue'].includes(result.output.colour))
})

test('a limit', async () => {
  const result = await generateText({ model, ...brief, maxOutputTokens: 2, prompt: 'Count to ten.' })
  assert.equal(result.finishReason, 'length')
})
