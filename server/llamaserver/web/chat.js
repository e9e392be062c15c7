/** The chat endpoint as the page uses it: messages in, parts of a message and figures out. */

import { jsonEvents, request } from './completion.js'

/** The server's address: where the page came from, whatever prefix a proxy put before it. */
export const server = new URL('.', document.baseURI).href

/**
 * Stream the answer to a conversation.
 *
 * Yields `{ delta, timings }`: the new part of the message, and timings (null but at the end).
 *
 * @param {Array<object>} messages OpenAI's
 * @param {object} options further fields of the request
 * @param {{api_key: string, signal: AbortSignal}} access
 */
export async function* streamChat(messages, options, access) {
  const body = { ...options, messages, stream: true }
  const response = await request(server, '/v1/chat/completions', { ...access, body })
  let finished = false
  for await (const { data } of jsonEvents(response.body)) {
    const choice = data.choices[0]
    finished ||= Boolean(choice?.finish_reason)
    yield { delta: choice?.delta ?? {}, timings: data.timings ?? null }
  }
  if (!finished) throw new Error('the connection ended before the answer did')
}

/** Add a part to a message. */
export function extend(message, delta) {
  if (delta.content) message.content += delta.content
  if (delta.reasoning_content) message.reasoning_content = (message.reasoning_content ?? '') + delta.reasoning_content
  for (const { index, id, function: { name, arguments: text } } of delta.tool_calls ?? []) {
    message.tool_calls ??= []
    message.tool_calls[index] ??= { id, type: 'function', function: { name, arguments: '' } }
    message.tool_calls[index].function.arguments += text ?? ''
  }
}

/** Take away a call whose arguments were cut: no later request could hold it. Tells whether anything is left. */
export function dropCutCalls(message) {
  const whole = (message.tool_calls ?? []).filter((call) => isJson(call.function.arguments))
  if (whole.length) message.tool_calls = whole
  else delete message.tool_calls
  return Boolean(message.content || message.reasoning_content || message.tool_calls)
}

/** The calls of the last answer that have no result yet. */
export function openCalls(messages) {
  const last = messages.findLastIndex((message) => message.role !== 'tool')
  const answered = new Set(messages.slice(last + 1).map((message) => message.tool_call_id))
  return (messages[last]?.tool_calls ?? []).filter((call) => !answered.has(call.id))
}

/** The model: its name, and whether it sees pictures. */
export async function describeModel(api_key) {
  const response = await request(server, '/v1/models', { api_key })
  const [model] = (await response.json()).data
  return { name: model.id.split('/').pop(), vision: Boolean(model.architecture?.input_modalities?.includes('image')) }
}

/** The server's state as /health tells it: null when it is ready, else why not. */
export async function notReady() {
  try {
    await request(server, '/health')
    return null
  } catch (error) {
    return error.message
  }
}

function isJson(text) {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
