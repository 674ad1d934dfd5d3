// Faults of the layout, one string each: `faultsOf(width, scrolled)`. Each element of class "page" is one; without any, all is.
// The checks: nothing is wider than the window or cut off; lines of code need no scrolling, except on the pages named in
// `scrolled` (null: all); no word of a table's head is broken; the copy button is beside the code; pictures have loaded.
function faultsOf(width, scrolled) {
  const faults = [];
  const main = document.querySelector("article") || document.body;
  const page = document.documentElement;
  const style = (e) => getComputedStyle(e);
  const home = (e) => e.closest(".page")?.title || "page";
  const add = (e, fault) => {
    const text = (e.textContent || e.src || "").trim().replace(/\s+/g, " ").slice(0, 40);
    faults.push(`${home(e)}: ${e.tagName.toLowerCase()} "${text}" ${fault}`);
  };
  const scroller = (e) => {
    for (let p = e; p; p = p.parentElement) if (["auto", "scroll"].includes(style(p).overflowX)) return p;
    return null;
  };
  if (page.scrollWidth > width) faults.push(`the page is ${page.scrollWidth} wide`);
  for (const e of main.querySelectorAll("pre, pre > code, table, math, img, svg, p, li, h1, h2, h3, h4, .formulas > div")) {
    const box = e.getBoundingClientRect();
    if (!box.width || !e.checkVisibility()) continue;
    const { overflowX, overflowY } = style(e);
    const wide = e.scrollWidth > e.clientWidth + 1;
    if (box.right > page.clientWidth + 1 && !scroller(e)) add(e, `ends at ${Math.round(box.right)}`);
    if (wide && ["hidden", "clip"].includes(overflowX)) add(e, "is cut off at the right");
    if (e.scrollHeight > e.clientHeight + 1 && ["hidden", "clip"].includes(overflowY)) add(e, "is cut off below");
    if (wide && e.matches("pre > code") && scrolled && !scrolled.includes(home(e))) add(e, "has lines that are too long");
    if (e.tagName === "IMG" && e.complete && !e.naturalWidth) add(e, "has not loaded");
  }
  for (const button of main.querySelectorAll("pre .md-code__nav")) {
    const own = button.getBoundingClientRect();
    const code = button.closest("pre").querySelector("code").getBoundingClientRect();
    if (own.width && own.left < code.right && own.top < code.bottom) add(button.closest("pre"), "is under its button");
  }
  for (const head of main.querySelectorAll("th")) {
    const texts = document.createTreeWalker(head, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const word of texts.currentNode.data.matchAll(/[^\s-]+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) add(head, "is a broken word");
      }
    }
  }
  return faults;
}
