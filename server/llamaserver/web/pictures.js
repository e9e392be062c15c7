/** Pictures that go with the next message. */

import { element } from './messages.js'

const LONGEST = 1536 // pixels of a side: larger pictures are made smaller before they are sent

/** Attached pictures, and the controls that attach them: a file field, and pasting into the question. */
export class Pictures {
  #list
  #parts = []

  /**
   * @param {HTMLElement} list shows what is attached
   * @param {(error: Error) => void} report called for a file that is no picture
   */
  constructor(list, report) {
    this.#list = list
    this.report = report
  }

  /** Attach files. */
  async add(files) {
    for (const file of files) {
      try {
        this.#parts.push({ type: 'image_url', image_url: { url: await dataUrl(file) } })
      } catch {
        this.report(new Error(`${file.name}: this browser cannot read it as a picture`))
      }
    }
    this.#draw()
  }

  /** The attached pictures as parts of a message. They are attached no more. */
  take() {
    const parts = this.#parts
    this.restore([])
    return parts
  }

  /** Attach these parts instead. */
  restore(parts) {
    this.#parts = parts
    this.#draw()
  }

  #draw() {
    const rows = this.#parts.map((part) => {
      const row = element('li', '')
      const image = document.createElement('img')
      image.src = part.image_url.url
      image.alt = 'picture to send'
      const remove = element('button', 'remove', 'Remove')
      remove.type = 'button'
      remove.addEventListener('click', () => this.restore(this.#parts.filter((other) => other !== part)))
      row.append(image, remove)
      return row
    })
    this.#list.replaceChildren(...rows)
  }
}

/** A picture file as a data URL, upright as its EXIF data says. */
async function dataUrl(file) {
  const bitmap = await createImageBitmap(file)
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height))
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(bitmap.width * scale))
  canvas.height = Math.max(1, Math.round(bitmap.height * scale))
  const context = canvas.getContext('2d')
  context.fillStyle = '#fff' // for what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height)
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
  bitmap.close()
  return file.type === 'image/png' ? canvas.toDataURL('image/png') : canvas.toDataURL('image/jpeg', 0.9)
}
