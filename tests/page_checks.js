// Looks at every page in an iframe: nothing wider than it, text with the contrast of WCAG AA, folds open by keyboard.
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
const background = (element, view) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = channels(view.getComputedStyle(each).backgroundColor);
    if (colour[3] > 0.99) return colour;
  }
  return [255, 255, 255];
};

function look(frame, said) {
  const view = frame.contentWindow, page = frame.contentDocument, where = `${page.title} at ${frame.width}`;
  page.querySelectorAll("details").forEach((each) => { each.open = true; });
  if (page.documentElement.scrollWidth > Number(frame.width))
    said.problems.push(`${where}: ${page.documentElement.scrollWidth} pixels wide`);
  page.querySelectorAll(".wide").forEach((each) => {
    if (each.scrollWidth > each.clientWidth + 1 && each.tabIndex < 0) said.problems.push(`${where}: no key scrolls a table`);
  });
  page.querySelectorAll("svg").forEach((image) => {
    const edges = image.getBoundingClientRect();
    image.querySelectorAll("text").forEach((text) => {
      const box = text.getBoundingClientRect();
      if (box.left < edges.left - 1 || box.right > edges.right + 1)
        said.problems.push(`${where}: a chart cuts off ${text.textContent}`);
    });
  });
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = view.getComputedStyle(element);
    if (!walker.currentNode.textContent.trim() || element.closest("title")) continue;
    const colour = channels(element.closest("svg") ? style.fill : style.color);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    said.texts += 1;
    const found = ratio(colour, background(element, view));
    if (found < (large ? 3 : 4.5))
      said.problems.push(`${where}: contrast ${found.toFixed(2)} of ${element.textContent.slice(0, 40)}`);
  }
  said.pages += 1;
}

addEventListener("load", () => {
  const said = { pages: 0, texts: 0, problems: [], dark: matchMedia("(prefers-color-scheme: dark)").matches };
  try {
    document.querySelectorAll("iframe").forEach((frame) => look(frame, said));
  } catch (error) {
    said.problems.push(String(error));
  }
  document.getElementById("found").textContent = JSON.stringify(said);
});
