"""Links to a tab and its settings: ?tab=generate&class_labels=dylan&seed=3&guidance_scale=2.5

A value is JSON, or a text that is none; of several the key is repeated. Anybody may write a link: what is read here is
checked where it is used (`RequestControls.read`).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

TAB = "tab"
Settings = dict[str, Any]  # what controls hold, by the names that settings have in requests and recipes

# (tab) => tab: the address names it, and no more what else a link said, which was used when the page was loaded
ADDRESS = """(tab) => {
  const asked = new URLSearchParams(window.location.search);
  const others = [...asked].filter(([name]) => ["__theme", "view"].includes(name)); // Gradio's own
  const query = new URLSearchParams([...(tab ? [["tab", tab]] : []), ...others]).toString();
  history.replaceState(history.state, "", window.location.pathname + (query && `?${query}`));
  return tab;
}"""

# A link's query -> the clipboard, and what the button says of it
COPY = """async (query) => {
  const link = new URL(query, window.location.origin + window.location.pathname).href;
  try {
    await navigator.clipboard.writeText(link);
    return "Link copied";
  } catch { // no permission, or an address without https
    window.prompt("Copy this link:", link);
    return "Copy link";
  }
}"""
COPIED = """async () => {
  await new Promise((resolve) => setTimeout(resolve, 2000));
  return "Copy link";
}"""


def follow(tab: str) -> str:
    """JavaScript for when a tab is chosen: the address names it. Its id is returned.

    Gradio chooses its first tab, and then the one of a link, before the page is loaded.
    """
    return f"() => window.mdtLoaded ? ({ADDRESS})({json.dumps(tab)}) : {json.dumps(tab)}"


def loaded() -> str:
    """JavaScript for when the page is loaded: from here on the address follows the tab."""
    return f"() => {{ window.mdtLoaded = true; ({ADDRESS})(new URLSearchParams(window.location.search).get('tab')); }}"


def to_query(tab: str, settings: Mapping[str, Any]) -> str:
    """The query of a link to a tab and its settings."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in settings.items()}
    return "?" + urlencode([(TAB, tab), *((key, to_text(value)) for key, values in lists.items() for value in values)])


def from_query(items: Iterable[tuple[str, str]]) -> tuple[str | None, Settings]:
    """The tab and the settings that a link names; anything may be among them."""
    found: dict[str, list[Any]] = {}
    for key, text in items:
        found.setdefault(key, []).append(from_text(text) if key != TAB else text)
    tab = found.pop(TAB, [None])[-1]
    return tab, {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def to_text(value: Any) -> str:
    """A value that `from_text` reads as the same."""
    return value if isinstance(value, str) and from_text(value) == value else json.dumps(value)


def from_text(text: str) -> Any:
    """JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
