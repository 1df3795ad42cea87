"""A button that puts an answer into the clipboard. Knows nothing of conversations."""

import streamlit as st

_HTML = """<button type="button" aria-label="Copy the answer">
<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">
<rect x="9" y="9" width="11" height="12" rx="2"/><path d="M5 16V5a2 2 0 0 1 2-2h9"/></svg>
<span class="word">Copy</span></button>"""
_CSS = """
button { all: unset; cursor: pointer; display: inline-flex; align-items: center; gap: .4rem; box-sizing: border-box;
  min-height: 1.75rem; font: 400 .8rem var(--st-font); color: var(--st-text-color); opacity: .7; }
button:hover { color: var(--st-primary-color); opacity: 1; }
button:focus-visible { outline: 2px solid var(--st-primary-color); border-radius: .25rem; }
svg { width: 1rem; height: 1rem; }
"""
# The text comes as data, never as markup. Outside localhost a page without TLS has no `navigator.clipboard`.
_JS = """
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  const word = parentElement.querySelector(".word");
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(data);
    } catch {
      const area = document.createElement("textarea");
      area.value = data;
      document.body.appendChild(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    word.textContent = "Copied";
    setTimeout(() => { word.textContent = "Copy"; }, 1500);
  };
}
"""


def copy_button(text: str, key: str) -> None:
    """Draw the button; a click copies `text` in the browser, without a rerun."""
    component = st.components.v2.component("mattoni_copy", html=_HTML, css=_CSS, js=_JS)
    component(data=text, key=key, width="content", height="content")
