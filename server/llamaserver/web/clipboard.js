/** Buttons that copy. */

/**
 * A button that copies a text.
 *
 * @param {() => string} text called when the button is pressed
 */
export function copyButton(text) {
  const button = document.createElement('button')
  button.type = 'button'
  button.className = 'copy'
  button.textContent = 'Copy'
  button.addEventListener('click', async () => {
    button.textContent = (await copy(text(), button)) ? 'Copied' : 'Not copied'
    setTimeout(() => (button.textContent = 'Copy'), 2000)
  })
  return button
}

/** Browsers have navigator.clipboard only on HTTPS and on the machine's own addresses. Tells whether it worked. */
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return copyBySelection(text, button)
  }
}

function copyBySelection(text, button) {
  const field = document.createElement('textarea')
  field.value = text
  field.className = 'unseen'
  document.body.append(field)
  field.select()
  const copied = document.execCommand('copy')
  field.remove()
  button.focus()
  return copied
}
