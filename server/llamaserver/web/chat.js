/** The chat endpoint as the page uses it: messages in, text and figures out. */

import { jsonEvents, request } from './completion.js'

/** The server's address: where the page came from, whatever prefix a proxy put before it. */
const server = new URL('.', document.baseURI).href

/**
 * Stream the answer to a conversation.
 *
 * Yields `{ text, timings }`: the new text, and timings (null but at the end).
 *
 * @param {Array<{role: string, content: string}>} messages
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
    yield { text: choice?.delta.content ?? '', timings: data.timings ?? null }
  }
  if (!finished) throw new Error('the connection ended before the answer did')
}

/** The name of the model. */
export async function modelName(api_key) {
  const response = await request(server, '/v1/models', { api_key })
  const name = (await response.json()).data[0].id
  return name.split('/').pop()
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
