#!/usr/bin/env node
/**
 * Chat with the server in a terminal: node chat.mjs [URL]
 *
 * URL     the server, by default $API_URL or http://127.0.0.1:8080
 * API_KEY environment variable: sent as Bearer token
 *
 * Node.js 18 or later, no packages. An empty line or the end of input ends the chat.
 */

import process from 'node:process'
import readline from 'node:readline/promises'

const url = (process.argv[2] ?? process.env.API_URL ?? 'http://127.0.0.1:8080').replace(/\/+$/, '')
const key = process.env.API_KEY ?? ''

const INSTRUCTION = `A chat between a curious human and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the human's questions.

### Human: Hello, Assistant.
### Assistant: Hello. How may I help you today?
`

const post = async (path, body) => {
  const headers = { 'Content-Type': 'application/json' }
  if (key) headers.Authorization = `Bearer ${key}`
  const response = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })
  if (response.ok) return response
  const answer = await response.json().catch(() => ({}))
  throw new Error(answer.error?.message ?? `HTTP status ${response.status}`)
}

/** The data of each event of a stream. One line holds one event's data. */
async function* events(response) {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const bytes of response.body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n')
    rest = lines.pop()
    for (const line of lines.filter((line) => line.startsWith('data: '))) yield JSON.parse(line.slice(6))
  }
}

/** Print the answer as it comes, and return it. */
const answer = async (prompt, n_keep) => {
  const response = await post('/completion', {
    prompt,
    n_keep, // the instruction stays when the context is full
    n_predict: 256,
    temperature: 0.2,
    top_k: 40,
    top_p: 0.9,
    stop: ['\n### Human:'],
    cache_prompt: true, // only what is new of the growing transcript is evaluated
    stream: true,
  })
  let text = ''
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message)
    text += event.content
    process.stdout.write(event.content)
  }
  process.stdout.write('\n')
  return text
}

const main = async () => {
  const { tokens } = await (await post('/tokenize', { content: INSTRUCTION })).json()
  const terminal = readline.createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
  let open = true // input that is not a terminal may end during an answer
  terminal.once('close', () => (open = false))
  terminal.on('SIGINT', () => process.exit(130))
  let transcript = INSTRUCTION
  terminal.prompt()
  for await (const question of terminal) {
    if (question.trim() === '') break
    transcript += `### Human: ${question}\n### Assistant:`
    transcript += `${await answer(transcript, tokens.length)}\n`
    if (open) terminal.prompt()
  }
  terminal.close()
}

main().catch((error) => {
  console.error(`chat.mjs: ${error.cause?.message ?? error.message}`)
  process.exitCode = 1
})
