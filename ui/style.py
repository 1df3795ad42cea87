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
/* Streamlit's dialog without a server talks of Streamlit and the internet; it leaves by itself when the server is back */
body:has([data-testid="stConnectionStatus"]) section[role="dialog"]:not(:has([data-testid])) :is(h2, h2 + div > div) {
  font-size: 0; }
body:has([data-testid="stConnectionStatus"]) section[role="dialog"]:not(:has([data-testid])) h2::after {
  content: "Mattoni does not answer"; font-size: 1.5rem; }
body:has([data-testid="stConnectionStatus"]) section[role="dialog"]:not(:has([data-testid])) h2 + div > div::after {
  content: "Its program has ended, or its machine cannot be reached. Start it again (mattoni ui): the page then goes on, and what was said is kept.";
  font-size: 1rem; }
/* room for the conversation, also on a phone */
[data-testid="stMainBlockContainer"] { padding-top: 4.5rem; padding-bottom: 2rem; }
[data-testid="stBottomBlockContainer"] { padding-bottom: 1.5rem; }
[data-testid="stSidebarHeader"] { height: auto; padding-top: 1.25rem; padding-bottom: .75rem; align-items: center; }
/* the name beside the sign */
[data-testid="stLogoSpacer"], [data-testid="stSidebarHeader"] { margin-bottom: .25rem; }
[data-testid="stSidebarHeader"] > div:first-child, [data-testid="stSidebarHeader"] > a { display: flex; }
[data-testid="stSidebarHeader"] [data-testid="stSidebarLogo"] { margin: 0; }
[data-testid="stSidebarHeader"]::before { content: "Mattoni"; order: 1; flex: 1; margin-left: .6rem;
  font-weight: 700; font-size: 1.25rem; letter-spacing: -.01em; }
[data-testid="stSidebarCollapseButton"] { order: 2; }
/* headings of the sidebar */
[class*="st-key-heading-"] p { font-size: .75rem; font-weight: 600; letter-spacing: .04em; opacity: .65; }
/* a question stands on the right, as a bubble without a face */
[class*="st-key-question-"] [data-testid="stChatMessage"] { max-width: 85%; width: fit-content; margin-left: auto;
  padding: .6rem .9rem; border-radius: 1rem 1rem .25rem 1rem;
  background: color-mix(in srgb, #c4502f 14%, transparent); }
[class*="st-key-question-"] [data-testid="stChatMessageAvatarUser"] { display: none; }
[class*="st-key-question-"] [data-testid="stChatMessageContent"] { margin: 0; }
[class*="st-key-question-"] img { border-radius: .5rem; max-height: 16rem; width: auto; max-width: 100%; }
[class*="st-key-answer-"] [data-testid="stChatMessage"] { background: transparent; padding: 0; }
/* in sight, however long the answer grows */
.st-key-stop { position: sticky; bottom: 7rem; width: fit-content; }
.st-key-stop button { border-radius: 1.25rem; }
[class*="st-key-words-"] { white-space: pre-wrap; overflow-wrap: anywhere; }
[class*="st-key-chips-"] { row-gap: .35rem; }
/* what can be done with a message: quiet until it is wanted */
[class*="st-key-actions-"] button, [class*="st-key-edit-"] button { min-height: 1.75rem; padding: 0; opacity: .7; }
[class*="st-key-actions-"] button p, [class*="st-key-edit-"] button p { font-size: .8rem; }
[class*="st-key-actions-"] button:hover, [class*="st-key-edit-"] button:hover { opacity: 1; }
/* who is here, in a line */
.st-key-account { overflow: hidden; }
.st-key-account [data-testid="stText"] { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: .85rem; opacity: .8; }
/* the list of conversations: one line each, scrolled when long */
.st-key-talks { max-height: 15rem; overflow-y: auto; }
[class*="st-key-open-"] button { justify-content: flex-start; text-align: left; padding: .1rem .5rem;
  min-height: 2rem; }
[class*="st-key-open-"] button > div { width: 100%; overflow: hidden; justify-content: flex-start; }
[class*="st-key-open-"] button p { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
/* a skill: its name, and a switch that leaves room for it */
[class*="st-key-skill-"] [data-testid="stPopover"] { min-width: 0; flex: 1; }
[class*="st-key-skill-"] [data-testid="stPopover"] button { justify-content: flex-start; padding: 0; min-height: 2rem;
  width: 100%; }
[class*="st-key-skill-"] [data-testid="stPopover"] button > div { min-width: 0; overflow: hidden; }
[class*="st-key-skill-"] [data-testid="stPopover"] button p { overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; font-size: .85rem; }
[class*="st-key-skill-"] [data-testid="stButtonGroup"] { flex: none; width: auto; }
[class*="st-key-skill-"] [data-testid="stButtonGroup"] button, [class*="st-key-skill-"] [role="radiogroup"] label {
  min-height: 1.7rem; padding: 0 .4rem; }
[class*="st-key-skill-"] [data-testid="stButtonGroup"] p { font-size: .75rem; }
/* examples: the whole card is the button */
[class*="st-key-example-"] { position: relative; min-height: 5.5rem; padding: .8rem; }
[class*="st-key-example-"]:hover { border-color: color-mix(in srgb, #c4502f 60%, transparent); }
[class*="st-key-example-"] img { width: 3.5rem; height: 3.5rem; object-fit: cover; border-radius: .5rem; }
[class*="st-key-example-"] button, [class*="st-key-example-"] button > div { justify-content: flex-start; width: 100%; }
[class*="st-key-example-"] button::after { content: ""; position: absolute; inset: 0; }
[class*="st-key-example-"] button p { text-align: left; }
/* the small charts of a trace */
.mattoni-bars { display: grid; grid-template-columns: minmax(4.5rem, max-content) 1fr max-content; gap: .3rem .75rem;
  align-items: center; font-size: .8rem; }
.mattoni-bars span { max-width: 13rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mattoni-bars span:nth-child(3n) { text-align: right; font-variant-numeric: tabular-nums; opacity: .8; }
.mattoni-bars i { position: relative; display: block; height: .6rem; border-radius: .3rem;
  background: color-mix(in srgb, currentColor 8%, transparent); }
.mattoni-bars u { position: absolute; inset: 0 auto 0 0; border-radius: .3rem; background: #d9694a; }
.mattoni-bars u.mattoni-quiet { background: color-mix(in srgb, currentColor 30%, transparent); }
.mattoni-bars b { position: absolute; top: -.2rem; bottom: -.2rem; width: 2px; background: currentColor; }
/* the scale of the maps of attention: as wide as they are */
.mattoni-scale { display: grid; grid-template-columns: repeat(3, 1fr); gap: .2rem; max-width: 400px; font-size: .8rem; }
.mattoni-scale i { grid-column: 1 / -1; height: .6rem; border-radius: .3rem; }
.mattoni-scale span:nth-of-type(2) { text-align: center; }
.mattoni-scale span:nth-of-type(3) { text-align: right; }
/* a document, and the passage of it that an answer cites */
.mattoni-page { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; }
.mattoni-page mark { background: color-mix(in srgb, #d9694a 25%, transparent); color: inherit; padding: .15rem 0; }
/* the neurons of a brick, layer by layer */
.mattoni-neurons { display: grid; grid-template-columns: max-content 1fr; gap: 1px .5rem; align-items: center;
  font-size: .65rem; line-height: 1; font-variant-numeric: tabular-nums; }
.mattoni-neurons span { text-align: right; opacity: .65; }
.mattoni-neurons div { display: flex; gap: 1px; background: color-mix(in srgb, currentColor 6%, transparent); }
.mattoni-neurons i { flex: 1; height: .7rem; background: #d9694a; }
.mattoni-legend { font-size: .8rem; opacity: .7; margin-top: .5rem; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding-left: 1rem; padding-right: 1rem; }
  [data-testid="stBottomBlockContainer"] { padding: 0 1rem 1rem; }
  [class*="st-key-example-"] { min-height: 0; padding: .5rem .7rem; }
  [class*="st-key-example-"] img { width: 2.75rem; height: 2.75rem; }
  [class*="st-key-answer-"] [data-testid="stChatMessage"] > :first-child { display: none; }
  .mattoni-bars span { max-width: 8rem; }
  h2 { font-size: 1.6rem !important; }
}
</style>
"""


def apply_style() -> None:
    """Add the rules to the page."""
    st.html(_CSS)
