/**
 * Markdown of a model as elements. Nobody vouches for that text, so HTML in it is shown as text, and DOMPurify lets
 * through only the elements and links named here. The page's Content-Security-Policy stands behind both.
 */

import DOMPurify from './vendor/dompurify/purify.es.mjs'
import { Marked } from './vendor/marked/marked.esm.js'
import { copyButton } from './clipboard.js'

const ALLOWED = {
  ALLOWED_TAGS: [
    ...['p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'blockquote', 'ul', 'ol', 'li', 'pre', 'code'],
    ...['em', 'strong', 'del', 'a', 'table', 'thead', 'tbody', 'tr', 'th', 'td'],
  ],
  ALLOWED_ATTR: ['href', 'title', 'align', 'start'],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
}

const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`)

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`, // it would tell its host
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
})

/**
 * A text that grows, in an element. The text is made of blocks (paragraphs, lists, code ...), and only blocks that
 * have changed are made anew: selections and scrolled code above stay as they are.
 */
export class Markdown {
  #element
  #blocks = [] // the source of each block that the element shows

  /** @param {HTMLElement} element */
  constructor(element) {
    this.#element = element
  }

  /** Show this text instead of the last one. */
  show(text) {
    const tokens = parse(text)
    const same = tokens.findIndex((token, i) => token.raw !== this.#blocks[i])
    const kept = same < 0 ? tokens.length : same
    while (this.#element.childNodes.length > kept) this.#element.lastChild.remove()
    this.#element.append(...tokens.slice(kept).map(block))
    this.#blocks = tokens.map((token) => token.raw)
  }
}

/** The blocks of a text. Nested too deeply for the parser, it is one block of plain text. */
function parse(text) {
  try {
    return marked.lexer(text).filter((token) => token.type !== 'space')
  } catch {
    return [{ type: 'text', raw: text, text }]
  }
}

function block(token) {
  const made = document.createElement('div')
  made.className = 'block'
  try {
    made.append(DOMPurify.sanitize(marked.parser([token]), ALLOWED))
  } catch {
    made.textContent = token.raw
  }
  for (const link of made.querySelectorAll('a[href]')) {
    link.target = '_blank'
    link.rel = 'noopener noreferrer'
  }
  for (const code of made.querySelectorAll('pre')) code.append(copyButton(() => code.querySelector('code').textContent))
  return made
}
