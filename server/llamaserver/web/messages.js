/** Messages of the conversation as elements. What people write is plain text, what models write is Markdown. */

import { copyButton } from './clipboard.js'
import { Markdown } from './markdown.js'

const SHARE = 0.1 // of the time, at most, that is spent on making a growing message anew

/** An element; `name` is its class, "" for none. */
export function element(tag, name, content = '') {
  const made = document.createElement(tag)
  if (name) made.className = name
  made.textContent = content
  return made
}

/** Change the conversation; its end stays in view unless the reader has scrolled up. */
function following(change) {
  const log = document.getElementById('log')
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40
  change()
  if (follows) log.scrollTop = log.scrollHeight
}

/** One message in the list. */
export class MessageView {
  #item
  #reasoning = null
  #markdown
  #calls = []
  #message
  #timer = null
  #pause = 0 // milliseconds until the next drawing

  /**
   * @param {object} message OpenAI's
   * @param {string} note the line below it
   */
  constructor(message, note = '') {
    this.#message = message
    this.#item = element('li', message.role)
    this.#item.append(element('h2', '', heading(message)), element('div', 'text'), element('p', 'figures', note))
    this.#markdown = new Markdown(this.#part('text'))
    document.getElementById('messages').append(this.#item)
    this.#draw()
    if (message.role === 'assistant') this.#item.append(copyButton(() => this.#message.content))
    this.#item.scrollIntoView({ block: 'end' })
  }

  /** The message has grown: show that soon. A long message takes long, and is shown less often. */
  grow() {
    if (this.#timer !== null) return
    this.#timer = setTimeout(() => {
      this.#timer = null
      this.#draw()
    }, this.#pause)
  }

  /** Whether more is to come. The end of a message is shown at once. */
  set busy(value) {
    this.#item.setAttribute('aria-busy', String(value))
    if (value) return
    clearTimeout(this.#timer)
    this.#timer = null
    this.#draw()
  }

  /** The line below. */
  set note(text) {
    following(() => (this.#part('figures').textContent = text))
  }

  remove() {
    clearTimeout(this.#timer)
    this.#item.remove()
  }

  #draw() {
    const start = performance.now()
    following(() => (this.#message.role === 'assistant' ? this.#drawAnswer() : this.#drawPlain()))
    this.#pause = Math.max(15, (performance.now() - start) / SHARE)
  }

  #drawPlain() {
    const { content } = this.#message
    const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : content
    const text = parts.filter((part) => part.type === 'text').map((part) => part.text)
    this.#part('text').textContent = text.join('\n')
    this.#part('text').after(...parts.filter((part) => part.type === 'image_url').map(picture))
  }

  #drawAnswer() {
    const { content, reasoning_content: reasoning, tool_calls: calls = [] } = this.#message
    if (reasoning) {
      this.#reasoning ??= this.#fold('reasoning', 'Reasoning', 'p')
      setText(this.#reasoning, reasoning)
    }
    this.#markdown.show(content)
    calls.forEach((call, i) => {
      this.#calls[i] ??= this.#fold('call', `Call of ${call.function.name}`, 'pre')
      setText(this.#calls[i], call.function.arguments)
    })
  }

  /** A folded part, thoughts before the text and calls after it. Returns the element for its content. */
  #fold(name, summary, tag) {
    const fold = element('details', name)
    const content = element(tag, 'folded')
    fold.append(element('summary', '', summary), content)
    this.#item.insertBefore(fold, this.#part(name === 'reasoning' ? 'text' : 'figures'))
    return content
  }

  #part(name) {
    return this.#item.querySelector(`:scope > .${name}`)
  }
}

function heading(message) {
  if (message.role === 'tool') return `Result of ${message.name}`
  return message.role === 'user' ? 'You' : 'Assistant'
}

function picture(part) {
  const image = document.createElement('img')
  image.src = part.image_url.url
  image.alt = 'attached picture'
  return image
}

/** Text that grows is added to, so that a selection in it stays. */
function setText(element, text) {
  const node = element.firstChild ?? element.appendChild(new Text())
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length))
  else node.data = text
}
