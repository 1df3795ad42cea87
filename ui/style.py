"""Colours and the few rules of CSS that Streamlit's theme has no option for. Knows nothing of what is drawn."""

from pathlib import Path

import streamlit as st

ICON = Path(__file__).parent / "mattoni.svg"

# Passed to Streamlit as flags by `ui.launch`: an installed package has no .streamlit/config.toml to be found.
THEME = {
    "theme.baseRadius": "medium",
    "theme.light.primaryColor": "#b0472b",
    "theme.light.backgroundColor": "#fffdfb",
    "theme.light.secondaryBackgroundColor": "#f6efea",
    "theme.light.textColor": "#2b211d",
    "theme.light.borderColor": "#e6d9d0",
    "theme.light.linkColor": "#a03f25",
    "theme.light.sidebar.backgroundColor": "#f8f2ed",
    "theme.light.sidebar.secondaryBackgroundColor": "#fffdfb",
    "theme.dark.primaryColor": "#e2714d",
    "theme.dark.backgroundColor": "#171311",
    "theme.dark.secondaryBackgroundColor": "#261f1b",
    "theme.dark.textColor": "#efe6e0",
    "theme.dark.borderColor": "#3d322c",
    "theme.dark.linkColor": "#f0926f",
    "theme.dark.sidebar.backgroundColor": "#1e1815",
    "theme.dark.sidebar.secondaryBackgroundColor": "#2c2420",
}

_CSS = """
<style>
/* the answer shows its own progress and its own stop button */
[data-testid="stStatusWidget"] { display: none; }
/* room for the conversation, also on a phone */
[data-testid="stMainBlockContainer"] { padding-top: 4.5rem; padding-bottom: 2rem; }
/* a question stands on the right, as a bubble without a face */
[class*="st-key-question-"] [data-testid="stChatMessage"] { max-width: 85%; width: fit-content; margin-left: auto;
  padding: .6rem .9rem; border-radius: 1rem 1rem .25rem 1rem;
  background: color-mix(in srgb, #c4502f 10%, transparent); }
[class*="st-key-question-"] [data-testid="stChatMessageAvatarUser"] { display: none; }
[class*="st-key-question-"] [data-testid="stChatMessageContent"] { margin: 0; }
[class*="st-key-question-"] img { border-radius: .5rem; max-height: 20rem; width: auto; max-width: 100%; }
[class*="st-key-answer-"] [data-testid="stChatMessage"] { background: transparent; padding-left: 0; padding-right: 0; }
[class*="st-key-words-"] { white-space: pre-wrap; overflow-wrap: anywhere; }
[class*="st-key-chips-"] { row-gap: .35rem; }
/* the list of conversations: one line each */
[class*="st-key-talk-"] button { justify-content: flex-start; text-align: left; padding: .1rem .5rem;
  min-height: 2rem; }
[class*="st-key-talk-"] button > div { width: 100%; overflow: hidden; justify-content: flex-start; }
[class*="st-key-talk-"] button p { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
[class*="st-key-example-"] img { width: 4.5rem; height: 4.5rem; object-fit: cover; border-radius: .5rem; }
[class*="st-key-example-"] { min-height: 6.6rem; justify-content: center; }
[class*="st-key-example-"] button, [class*="st-key-example-"] button > div { justify-content: flex-start; width: 100%; }
[class*="st-key-example-"] button p { text-align: left; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding-left: 1rem; padding-right: 1rem; }
  [class*="st-key-example-"] { min-height: 0; }
  [class*="st-key-answer-"] [data-testid="stChatMessage"] > :first-child { display: none; }
  h2 { font-size: 1.6rem !important; }
}
</style>
"""


def apply_style() -> None:
    """Add the rules to the page."""
    st.html(_CSS)
