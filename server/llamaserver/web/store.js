/** Conversations in the browser's IndexedDB: the latest MOST of them, and LARGEST characters in all. */

import { server } from './chat.js'

const MOST = 50
const LARGEST = 50e6

/** Kept conversations: a head (id, title, changed, size) for the list, and the entries apart. */
export class Store {
  #database

  constructor(database) {
    this.#database = database
  }

  /** Each address of a server has its own. Rejects where the browser keeps nothing. */
  static async open() {
    const opening = indexedDB.open(`conversations with ${server}`, 1)
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore('heads', { keyPath: 'id', autoIncrement: true })
      opening.result.createObjectStore('entries')
    }
    return new Store(await done(opening))
  }

  /** The heads, the latest first. */
  async list() {
    const heads = await done(this.#database.transaction('heads').objectStore('heads').getAll())
    return heads.sort(latestFirst)
  }

  /** The entries of a conversation; undefined if it is not kept. */
  read(id) {
    return done(this.#database.transaction('entries').objectStore('entries').get(id))
  }

  /** Keep a conversation, and drop the oldest beyond the bounds. Returns its id, a new one if `id` is null. */
  async write(id, title, entries) {
    const size = JSON.stringify(entries).length
    if (size > LARGEST) throw new Error('it is too large')
    const transaction = this.#database.transaction(['heads', 'entries'], 'readwrite')
    const [heads, bodies] = ['heads', 'entries'].map((name) => transaction.objectStore(name))
    const head = { title, size, changed: Date.now(), ...(id === null ? {} : { id }) }
    id = await done(heads.put(head))
    bodies.put(entries, id)
    const others = (await done(heads.getAll())).filter((other) => other.id !== id)
    let [count, sum] = [1, size]
    for (const other of others.sort(latestFirst)) {
      count += 1
      sum += other.size
      if (count <= MOST && sum <= LARGEST) continue
      heads.delete(other.id)
      bodies.delete(other.id)
    }
    await ended(transaction)
    return id
  }

  /** Forget a conversation. */
  async delete(id) {
    const transaction = this.#database.transaction(['heads', 'entries'], 'readwrite')
    for (const name of ['heads', 'entries']) transaction.objectStore(name).delete(id)
    await ended(transaction)
  }
}

function latestFirst(one, other) {
  return other.changed - one.changed || other.id - one.id
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })
}

function ended(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve()
    transaction.onabort = () => reject(transaction.error)
  })
}
