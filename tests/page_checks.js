// Looks at a page: nothing wider than the window, no text of a chart cut off, text with the contrast of WCAG AA
// (axe-core does not look at that of charts).
const channels = (text) => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  const scale = text.startsWith("color(") ? 255 : 1;
  return [...numbers.slice(0, 3).map((value) => value * scale), numbers.length > 3 ? numbers[3] : 1];
};
const luminance = (colour) => {
  const [red, green, blue] = colour.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ratio = (one, other) => {
  const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};
const background = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = channels(getComputedStyle(each).backgroundColor);
    if (colour[3] > 0.99) return colour;
  }
  return [255, 255, 255];
};


function look() {
  const said = { texts: 0, problems: [] };
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) said.problems.push(`the page is ${root.scrollWidth} pixels wide`);
  document.querySelectorAll(".wide").forEach((each) => {
    if (each.scrollWidth > each.clientWidth + 1 && each.tabIndex < 0) said.problems.push("no key scrolls a table");
  });
  document.querySelectorAll("svg").forEach((image) => {
    const edges = image.getBoundingClientRect();
    image.querySelectorAll("text").forEach((text) => {
      const box = text.getBoundingClientRect();
      if (box.left < edges.left - 1 || box.right > edges.right + 1)
        said.problems.push(`a chart cuts off ${text.textContent}`);
    });
  });
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.textContent.trim() || element.closest("title")) continue;
    const colour = channels(element.closest("svg") ? style.fill : style.color);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    said.texts += 1;
    const found = ratio(colour, background(element));
    if (found < (large ? 3 : 4.5))
      said.problems.push(`contrast ${found.toFixed(2)} of ${element.textContent.slice(0, 40)}`);
  }
  return said;
}

// What keys reach, in the order of the page, and where the focus is among it.
const reachable = () => [...document.querySelectorAll("a[href], summary, [tabindex='0']")].filter((each) => each.checkVisibility());
const focused = () => {
  const style = getComputedStyle(document.activeElement);
  return [reachable().indexOf(document.activeElement), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
};
