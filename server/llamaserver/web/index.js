/** The chat page: what the reader presses, and what happens then. */

import { describeModel, dropCutCalls, extend, notReady, openCalls, streamChat } from './chat.js'
import { Conversations } from './conversations.js'
import { MessageView } from './messages.js'
import { Pictures } from './pictures.js'
import { keepFields, options, settingsAreValid, withSystem } from './settings.js'

const $ = (id) => document.getElementById(id)

let running = null // AbortController of the answer that streams in
const conversations = new Conversations(showConversation)
const pictures = new Pictures($('pictures'), report)

/** Send the question and show the answer as it comes. A result of a call is sent when all calls have theirs. */
async function ask() {
  const text = $('question').value.trim()
  if (running || text === '' || !settingsAreValid()) return
  const conversation = conversations.shown
  const question = { message: compose(text, conversation), note: '' }
  const asked = new MessageView(question.message)
  $('question').value = ''
  const messages = [...messagesOf(conversation), question.message]
  if (openCalls(messages).length) {
    await keep(conversation, question)
    showWhatIsAsked()
    return
  }
  const mine = begin()
  const [answer, view] = await receive(messages, mine)
  if (answer) await keep(conversation, question, answer)
  if (running !== mine) return // another conversation is shown meanwhile
  if (!answer) {
    asked.remove()
    view.remove()
    $('question').value = text
    if (Array.isArray(question.message.content)) pictures.restore(question.message.content.slice(1))
  }
  end()
}

/** What is written as a message: the result of an open call, else a question with the attached pictures. */
function compose(text, conversation) {
  const [call] = openCalls(messagesOf(conversation))
  if (call) return { role: 'tool', tool_call_id: call.id, name: call.function.name, content: text }
  const attached = pictures.take()
  return { role: 'user', content: attached.length ? [{ type: 'text', text }, ...attached] : text }
}

/** Stream one answer into the list. Returns its entry, null when there is nothing to keep, and its view. */
async function receive(messages, controller) {
  const entry = { message: { role: 'assistant', content: '' }, note: '' }
  const view = new MessageView(entry.message)
  let complete = false
  view.busy = true
  try {
    for await (const { delta, timings } of streamChat(withSystem(messages), options(), access(controller))) {
      extend(entry.message, delta)
      view.grow()
      if (timings) entry.note = figures(timings)
    }
    complete = true
  } catch (error) {
    if (controller.signal.aborted) entry.note = 'stopped'
    else report(error)
  }
  view.busy = false
  view.note = entry.note
  return [dropCutCalls(entry.message) || complete ? entry : null, view]
}

async function keep(conversation, ...entries) {
  conversation.entries.push(...entries)
  try {
    await conversations.keep(conversation)
  } catch (error) {
    report(new Error(`The browser does not keep this conversation: ${error.message}`))
  }
}

function messagesOf(conversation) {
  return conversation.entries.map((entry) => entry.message)
}

/** Show a conversation instead of the one before, whose answer ends. */
function showConversation(conversation) {
  running?.abort()
  $('messages').replaceChildren()
  $('error').textContent = ''
  for (const { message, note } of conversation.entries) new MessageView(message, note)
  end()
  $('question').focus()
}

function begin() {
  running = new AbortController()
  $('error').textContent = ''
  $('status').textContent = 'Answering …'
  showRunning()
  return running
}

function end() {
  running = null
  $('status').textContent = ''
  showRunning()
  showWhatIsAsked()
  if (document.activeElement?.matches('body, :disabled')) $('question').focus()
}

function showRunning() {
  $('send').disabled = running !== null
  $('stop').disabled = running === null
}

/** A call waits for its result, which the next message is. */
function showWhatIsAsked() {
  const [call] = openCalls(messagesOf(conversations.shown))
  $('asked').textContent = call ? `Result of ${call.function.name}` : 'Message'
}

/** Speed and cache use of one answer. */
function figures(timings) {
  const prompt = timings.cache_n + timings.prompt_n
  return (
    `${timings.predicted_n} tokens, ${timings.predicted_per_second.toFixed(1)} tokens/s; ` +
    `${timings.cache_n} of ${prompt} prompt tokens from the cache`
  )
}

function access(controller) {
  return { api_key: $('api_key').value, signal: controller?.signal }
}

/** Show an error; when it is about the key, ask for one. */
function report(error) {
  $('error').textContent = error.message
  if (error.code !== 401) return
  $('access').hidden = false
  $('api_key').select()
}

/** Show the model's name, which also tells whether the key is right. */
async function greet() {
  try {
    const { name, vision } = await describeModel($('api_key').value)
    $('model').textContent = name
    $('attach').hidden = !vision
    $('access').hidden = true
    $('error').textContent = ''
  } catch (error) {
    report(error)
  }
}

/** Wait until the model is loaded. */
async function waitReady() {
  for (let reason; (reason = await notReady()) !== null; ) {
    $('status').textContent = reason
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
  $('status').textContent = ''
}

function listen() {
  $('compose').addEventListener('submit', (event) => {
    event.preventDefault()
    ask()
  })
  $('access').addEventListener('submit', (event) => {
    event.preventDefault()
    greet()
  })
  $('settings').addEventListener('submit', (event) => event.preventDefault())
  $('question').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
    event.preventDefault()
    $('compose').requestSubmit()
  })
  $('files').addEventListener('change', async () => {
    await pictures.add($('files').files)
    $('files').value = ''
  })
  $('question').addEventListener('paste', (event) => {
    if (!$('attach').hidden) pictures.add(event.clipboardData.files)
  })
  $('stop').addEventListener('click', () => running?.abort())
  $('reset').addEventListener('click', () => conversations.begin())
  // A page that is left may live on in the browser's cache, its requests with it.
  addEventListener('pagehide', () => running?.abort())
}

keepFields()
listen()
await conversations.restore()
await waitReady()
await greet()
