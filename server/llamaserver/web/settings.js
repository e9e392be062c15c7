/** The settings as fields of a request. They outlive a reload, not the tab. */

const $ = (id) => document.getElementById(id)
const NUMBERS = ['temperature', 'top_k', 'top_p', 'n_predict']
const KEPT = [...NUMBERS, 'system', 'tools', 'api_key']

/** Fill the fields as the tab last had them, and remember changes. */
export function keepFields() {
  for (const name of KEPT) {
    $(name).value = sessionStorage.getItem(name) ?? $(name).value
    $(name).addEventListener('change', () => sessionStorage.setItem(name, $(name).value))
  }
}

/** The messages with the system prompt before them. */
export function withSystem(messages) {
  const content = $('system').value.trim()
  return content ? [{ role: 'system', content }, ...messages] : messages
}

/** What is wrong can only be shown when the settings are. */
export function settingsAreValid() {
  $('tools').setCustomValidity(tools() === null ? 'This is not a list in JSON' : '')
  if (!$('settings').checkValidity()) $('more').open = true
  return $('settings').reportValidity()
}

/** The fields that are filled in; the server has defaults for the others. */
export function options() {
  const filled = NUMBERS.filter((name) => $(name).value !== '')
  const fields = Object.fromEntries(filled.map((name) => [name, $(name).valueAsNumber]))
  return tools().length ? { ...fields, tools: tools() } : fields
}

/** The tools that the model may call; null if the text is no list. */
function tools() {
  try {
    const found = JSON.parse($('tools').value.trim() || '[]')
    return Array.isArray(found) ? found : null
  } catch {
    return null
  }
}
