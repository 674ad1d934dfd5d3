// Faults of a page's layout, one string each: `faultsOf(whole)`. With `whole`, lines of code may not scroll.
// The checks: nothing is wider than the window or cut off; no word of a table's head is broken; the copy button is
// beside the code; every picture has loaded.
function faultsOf(whole) {
  const faults = [];
  const main = document.querySelector("article") || document.body;
  const page = document.documentElement;
  const style = (e) => getComputedStyle(e);
  const told = (e) => `${e.tagName.toLowerCase()} "${(e.textContent || e.src || "").trim().replace(/\s+/g, " ").slice(0, 40)}"`;
  const add = (e, text) => faults.push(`${told(e)}: ${text}`);
  if (page.scrollWidth > innerWidth) faults.push(`the page is ${page.scrollWidth} wide in a window of ${innerWidth}`);

  const scroller = (e) => {
    for (let p = e; p; p = p.parentElement) if (["auto", "scroll"].includes(style(p).overflowX)) return p;
    return null;
  };
  for (const e of main.querySelectorAll("pre, pre > code, table, math, img, svg, p, li, h1, h2, h3, h4, .formulas > div")) {
    const box = e.getBoundingClientRect();
    if (!box.width || !e.checkVisibility()) continue;
    const { overflowX, overflowY } = style(e);
    if (box.right > page.clientWidth + 1 && !scroller(e)) add(e, `ends at ${Math.round(box.right)}`);
    if (["hidden", "clip"].includes(overflowX) && e.scrollWidth > e.clientWidth + 1) add(e, "is cut off at the right");
    if (["hidden", "clip"].includes(overflowY) && e.scrollHeight > e.clientHeight + 1) add(e, "is cut off below");
    if (whole && e.matches("pre > code") && e.scrollWidth > e.clientWidth + 1) add(e, "has lines that are too long");
    if (e.tagName === "IMG" && e.complete && !e.naturalWidth) add(e, "has not loaded");
  }
  for (const button of main.querySelectorAll("pre .md-code__nav, pre .md-clipboard")) {
    const own = button.getBoundingClientRect();
    const code = button.closest("pre").querySelector("code").getBoundingClientRect();
    if (own.width && own.left < code.right && code.left < own.right && own.top < code.bottom) add(button.closest("pre"), "is under its copy button");
  }
  for (const head of main.querySelectorAll("th")) {
    const texts = document.createTreeWalker(head, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const word of texts.currentNode.data.matchAll(/[^\s-]+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) add(head, `"${word[0]}" is broken`);
      }
    }
  }
  return faults;
}
