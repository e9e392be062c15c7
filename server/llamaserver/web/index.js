/** The chat page: what the reader sees and presses. Model text only ever becomes a text node. */

import { modelName, notReady, streamChat } from './chat.js'

const $ = (id) => document.getElementById(id)
const NUMBERS = ['temperature', 'top_k', 'top_p', 'n_predict']
const KEPT = [...NUMBERS, 'system', 'api_key'] // fields that outlive a reload, not the tab

let history = [] // messages of the conversation, without the system prompt
let running = null // AbortController of the answer that streams in

/** Send the question and show the answer as it comes. */
async function ask() {
  const question = $('question').value.trim()
  if (running || question === '' || !settingsAreValid()) return
  const mine = begin()
  const asked = addMessage('user', question)
  const answer = addMessage('assistant', '')
  $('question').value = ''
  const said = await receive(answer, [...history, { role: 'user', content: question }], mine)
  if (running !== mine) return // the conversation was reset meanwhile
  if (said === null) {
    asked.remove()
    answer.remove()
    $('question').value = question
  } else {
    history.push({ role: 'user', content: question }, { role: 'assistant', content: said })
  }
  end()
}

/** Stream one answer into its element. Returns its text, or null when there is none to keep. */
async function receive(element, messages, controller) {
  const text = element.querySelector('.text').appendChild(new Text())
  element.setAttribute('aria-busy', 'true')
  try {
    for await (const part of streamChat(withSystem(messages), options(), access(controller))) {
      if (part.text) following(() => text.appendData(part.text))
      if (part.timings) note(element, figures(part.timings))
    }
  } catch (error) {
    if (controller.signal.aborted) note(element, 'stopped')
    else report(error)
    if (text.data === '') return null
  } finally {
    element.setAttribute('aria-busy', 'false')
  }
  return text.data
}

/** The line below an answer. */
function note(element, text) {
  following(() => (element.querySelector('.figures').textContent = text))
}

/** Change the conversation; its end stays in view unless the reader has scrolled up. */
function following(change) {
  const log = $('log')
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40
  change()
  if (follows) log.scrollTop = log.scrollHeight
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
  if (document.activeElement?.matches('body, :disabled')) $('question').focus()
}

function showRunning() {
  $('send').disabled = running !== null
  $('stop').disabled = running === null
}

function reset() {
  running?.abort()
  history = []
  $('messages').replaceChildren()
  $('error').textContent = ''
  end()
  $('question').focus()
}

function addMessage(role, content) {
  const item = document.createElement('li')
  item.className = role
  item.append(
    element('h2', '', role === 'user' ? 'You' : 'Assistant'),
    element('p', 'text', content),
    element('p', 'figures', ''),
  )
  $('messages').append(item)
  item.scrollIntoView({ block: 'end' })
  return item
}

function element(tag, name, content) {
  const made = document.createElement(tag)
  made.className = name
  made.textContent = content
  return made
}

/** Speed and cache use of one answer. */
function figures(timings) {
  const prompt = timings.cache_n + timings.prompt_n
  return (
    `${timings.predicted_n} tokens, ${timings.predicted_per_second.toFixed(1)} tokens/s; ` +
    `${timings.cache_n} of ${prompt} prompt tokens from the cache`
  )
}

function withSystem(messages) {
  const content = $('system').value.trim()
  return content ? [{ role: 'system', content }, ...messages] : messages
}

/** What is wrong can only be shown when the settings are. */
function settingsAreValid() {
  if (!$('settings').checkValidity()) $('more').open = true
  return $('settings').reportValidity()
}

/** The numbers that are filled in; the server has defaults for the others. */
function options() {
  const filled = NUMBERS.filter((name) => $(name).value !== '')
  return Object.fromEntries(filled.map((name) => [name, $(name).valueAsNumber]))
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
    $('model').textContent = await modelName($('api_key').value)
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

function keepFields() {
  for (const name of KEPT) {
    $(name).value = sessionStorage.getItem(name) ?? $(name).value
    $(name).addEventListener('change', () => sessionStorage.setItem(name, $(name).value))
  }
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
  $('stop').addEventListener('click', () => running?.abort())
  $('reset').addEventListener('click', reset)
  // A page that is left may live on in the browser's cache, its requests with it.
  addEventListener('pagehide', () => running?.abort())
}

keepFields()
listen()
await waitReady()
await greet()
