// Added by `thoughtlens serve` to the explorer's pages: the way to the page that asks the model.
"use strict";
{
  const link = document.createElement("a");
  link.href = "/live/";
  link.id = "live";
  link.textContent = "Ask the model →";
  link.style.cssText = "position: fixed; right: 1rem; bottom: 1rem; z-index: 3; padding: .3rem .8rem; " +
    "border: 1px solid var(--accent); border-radius: 1rem; background: var(--paper);";
  document.body.append(link);
}
