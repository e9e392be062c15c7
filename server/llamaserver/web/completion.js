/**
 * Talk to the server from a page or from Node.js: import { llama } from '/completion.js'
 *
 *   for await (const chunk of llama('Once upon a time', { n_predict: 64 })) {
 *     document.body.append(chunk.data.content)
 *   }
 *
 * `llama`, `llamaEventTarget`, `llamaPromise` and `llamaComplete` are four ways to the same stream.
 * This file imports nothing, so that it can be copied.
 */

/** Fields of /completion that are sent when `params` does not name them. */
const defaults = { stream: true, n_predict: 500, temperature: 0.2, stop: ['</s>'] }

/** An error that the server reported; the message is the server's own. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {number} code HTTP status
   * @param {string} type as in OpenAI's error format, such as authentication_error
   */
  constructor(message, code, type) {
    super(message)
    this.name = 'ServerError'
    this.code = code
    this.type = type
  }

  /** From the value of the `error` field of an answer or an event. */
  static from(error, code) {
    return new ServerError(error?.message ?? `HTTP status ${code}`, error?.code ?? code, error?.type ?? 'server_error')
  }
}

/**
 * Stream the completion of a prompt.
 *
 * Yields `{ data }` for every event; `data.content` is the new text, and the event with `data.stop`
 * true carries everything else: timings, generation_settings, why generation stopped ...
 * Returns the whole text. Leaving the loop ends the generation on the server.
 *
 * @param {string|Array} prompt
 * @param {object} params fields of /completion; `api_key` among them is sent as header instead
 * @param {object} config `controller`: an AbortController that ends the generation; `api_url`: the
 *   server's address, when it is not the page's; `api_key`
 * @throws {ServerError} what the server reported, before or within the stream
 */
export async function* llama(prompt, params = {}, config = {}) {
  const { api_key = config.api_key, ...fields } = params
  const body = { ...defaults, ...fields, prompt }
  const response = await request(config.api_url, '/completion', { body, api_key, signal: config.controller?.signal })
  if (!response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
    const data = await response.json()
    yield { data }
    return data.content
  }
  let content = ''
  let stopped = false
  for await (const event of jsonEvents(response.body)) {
    content += event.data.content ?? ''
    stopped ||= event.data.stop === true
    yield event
  }
  if (!stopped) throw new Error('the connection ended before the answer did')
  return content
}

/**
 * The same as an EventTarget: "message" for every event (its `detail` is the data), then
 * "generation_settings", "timings" and "done" (`detail.content` is the whole text), or "error".
 */
export function llamaEventTarget(prompt, params = {}, config = {}) {
  const target = new EventTarget()
  const send = (name, detail) => target.dispatchEvent(new CustomEvent(name, { detail }))
  const run = async () => {
    let content = ''
    for await (const { data } of llama(prompt, params, config)) {
      content += data.content
      send('message', data)
      if (data.generation_settings) send('generation_settings', data.generation_settings)
      if (data.timings) send('timings', data.timings)
    }
    send('done', { content })
  }
  run().catch((error) => send('error', error))
  return target
}

/** The whole text as a Promise. */
export async function llamaPromise(prompt, params = {}, config = {}) {
  let content = ''
  for await (const { data } of llama(prompt, params, config)) content += data.content
  return content
}

/** With a callback for every event; `params` holds the prompt, `controller` may be null. */
export async function llamaComplete(params, controller, callback) {
  const { prompt, ...fields } = params
  for await (const chunk of llama(prompt, fields, { controller: controller ?? undefined })) callback(chunk)
}

const settings = new Map() // by server address

/** The server's default generation settings, asked for once. */
export async function llamaModelInfo(config = {}) {
  const address = config.api_url ?? ''
  if (!settings.has(address)) {
    const response = await request(address, '/props', { api_key: config.api_key })
    settings.set(address, (await response.json()).default_generation_settings)
  }
  return settings.get(address)
}

/** GET, or POST when there is a body. Throws ServerError for every status but 2xx. */
export async function request(address, path, { body, api_key, signal } = {}) {
  const headers = { Accept: 'application/json, text/event-stream' }
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  if (api_key) headers.Authorization = `Bearer ${api_key}`
  const response = await fetch((address ?? '').replace(/\/+$/, '') + path, {
    method: body === undefined ? 'GET' : 'POST',
    body: JSON.stringify(body),
    headers,
    signal,
  })
  if (response.ok) return response
  const answer = await response.json().catch(() => ({}))
  throw ServerError.from(answer.error, response.status)
}

/** Events whose data is JSON, parsed; OpenAI's closing "[DONE]" is left out. Throws an error event. */
export async function* jsonEvents(stream) {
  for await (const event of serverSentEvents(stream)) {
    if (event.data === '[DONE]') continue
    const data = JSON.parse(event.data)
    if (data.error) throw ServerError.from(data.error, 500)
    yield { ...event, data }
  }
}

/** Parse a byte stream as text/event-stream: yields `{ event, id, data }`, data still as text. */
export async function* serverSentEvents(stream) {
  let fields = { event: 'message', id: '', data: [] }
  for await (const line of lines(stream)) {
    if (line === '') {
      if (fields.data.length > 0) yield { ...fields, data: fields.data.join('\n') }
      fields = { event: 'message', id: fields.id, data: [] }
      continue
    }
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line)
    if (name === 'data') fields.data.push(value)
    else if (name === 'event' || name === 'id') fields[name] = value
  }
}

/** Lines of a UTF-8 byte stream, ended by LF, CR or CRLF. The stream is cancelled when the reader leaves. */
async function* lines(stream) {
  const reader = stream.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      rest += decoder.decode(value, { stream: !done })
      // A CR at the very end may be half of a CRLF: it waits for what follows.
      const parts = rest.split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/)
      rest = parts.pop()
      yield* parts
      if (done) return
    }
  } finally {
    await reader.cancel().catch(() => {})
  }
}
