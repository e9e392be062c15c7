/** The conversation that is shown, and the list of those that are kept. */

import { element } from './messages.js'
import { Store } from './store.js'

const CURRENT = 'conversation' // in the session storage: a reload of the tab shows the same one

const $ = (id) => document.getElementById(id)

/** Kept conversations. Without a store (the browser keeps nothing) there is only the one that is shown. */
export class Conversations {
  #store = null
  #shown = fresh()
  #show

  /** @param {(conversation: {entries: Array}) => void} show called when another conversation is to be shown */
  constructor(show) {
    this.#show = show
  }

  /** The one that is shown. Its entries are `{ message, note }`. */
  get shown() {
    return this.#shown
  }

  /** Show the tab's conversation again, or an empty one. */
  async restore() {
    try {
      this.#store = await Store.open()
      await this.#list()
      const id = Number(sessionStorage.getItem(CURRENT))
      if (id && this.#shown.entries.length === 0) await this.#open(id)
    } catch {
      this.#store = null
    }
    $('kept').hidden = this.#store === null
  }

  /** Begin a new one. */
  begin() {
    this.#switch(fresh())
  }

  /** Keep a conversation as it is now. Rejects if the browser does not take it. */
  async keep(conversation) {
    if (this.#store === null || conversation.deleted) return
    conversation.id = await this.#store.write(conversation.id, title(conversation.entries), conversation.entries)
    if (conversation === this.#shown) sessionStorage.setItem(CURRENT, conversation.id)
    await this.#list()
  }

  async #open(id) {
    if (id === this.#shown.id) return
    const entries = await this.#store.read(id)
    if (entries) this.#switch({ id, entries, deleted: false })
  }

  async #delete(id) {
    await this.#store.delete(id)
    if (id === this.#shown.id) {
      this.#shown.deleted = true
      this.begin()
    }
    await this.#list()
  }

  #switch(conversation) {
    this.#shown = conversation
    if (conversation.id === null) sessionStorage.removeItem(CURRENT)
    else sessionStorage.setItem(CURRENT, conversation.id)
    this.#show(conversation)
  }

  async #list() {
    const heads = await this.#store.list()
    $('conversations').replaceChildren(...heads.map((head) => this.#row(head)))
    $('none').hidden = heads.length > 0
  }

  #row({ id, title }) {
    const row = element('li', '')
    const open = button('open', title, () => this.#open(id))
    const remove = button('delete', 'Delete', () => this.#delete(id))
    remove.setAttribute('aria-label', `Delete ${title}`)
    row.append(open, remove)
    return row
  }
}

function fresh() {
  return { id: null, entries: [], deleted: false }
}

/** The begin of the first question. */
function title([first]) {
  const { content } = first.message
  const text = typeof content === 'string' ? content : content.find((part) => part.type === 'text')?.text
  return (text ?? 'Pictures').replace(/\s+/g, ' ').slice(0, 80)
}

function button(name, text, press) {
  const made = element('button', name, text)
  made.type = 'button'
  made.addEventListener('click', press)
  return made
}
