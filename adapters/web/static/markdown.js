/**
 * Shows a model's answer: a small part of Markdown, built from text nodes and elements only.
 *
 * The text is untrusted. It never becomes HTML, and links and pictures in it stay plain text.
 * Each paragraph and list item has its text's own direction (dir="auto"); code is left to right, and decides nobody else's.
 * Supported: paragraphs, lists, headings, fenced code, `code`, **bold**, *italic*. Anything else is shown as it was written.
 */

// Each takes time in proportion to the text: no run of characters is begun anew at each of its places, and none is shared out between
// two parts of a pattern in all ways.
const INLINE =
  /(?<!`)(`+)(?!`)([^`]+)\1(?!`)|\*\*(?=\S)(.+?\S?)\*\*|(?<![\w*])\*(?=[^\s*])([^*]*?[^\s*])\*(?![\w*])/u;
const BULLET = /^\s*[-*+]\s+(.*)$/su;
const NUMBER = /^\s*(\d{1,9})[.)]\s+(.*)$/su;
const HEADING = /^#{1,6}\s+(.*)$/su;
const FENCE = /^\s*```/u;

/** @param {string} text @returns {DocumentFragment} */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  let paragraph = [];
  const endParagraph = () => {
    if (paragraph.length) fragment.append(element("p", paragraph.join("\n")));
    paragraph = [];
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    if (FENCE.test(line)) {
      endParagraph();
      const code = [];
      for (i++; i < lines.length && !FENCE.test(lines[i]); i++) code.push(lines[i]);
      const block = document.createElement("pre");
      block.dir = "ltr";
      block.append(document.createElement("code"));
      block.firstChild.textContent = code.join("\n");
      fragment.append(block);
    } else if (BULLET.test(line) || NUMBER.test(line)) {
      endParagraph();
      const pattern = BULLET.test(line) ? BULLET : NUMBER;
      const list = document.createElement(pattern === BULLET ? "ul" : "ol");
      if (pattern === NUMBER) list.start = Number(NUMBER.exec(line)[1]);
      for (; i < lines.length && pattern.test(lines[i]); i++) list.append(element("li", pattern.exec(lines[i]).at(-1)));
      i--;
      fragment.append(list);
    } else if (HEADING.test(line)) {
      endParagraph();
      const heading = element("p", withoutClosing(HEADING.exec(line)[1]));
      heading.className = "heading";
      fragment.append(heading);
    } else if (line.trim() === "") {
      endParagraph();
    } else {
      paragraph.push(line);
    }
  }
  endParagraph();
  return fragment;
}

/** A heading's text without the # at its end. */
function withoutClosing(text) {
  let end = text.trimEnd().length;
  while (text[end - 1] === "#") end -= 1;
  return text.slice(0, end).trimEnd();
}

function element(name, text) {
  const node = document.createElement(name);
  appendInline(node, text, 0);
  node.dir = "auto"; // last: the browser looks for the direction in all that is there whenever something is added
  return node;
}

function appendInline(parent, text, depth) {
  while (text) {
    const match = depth < 4 ? INLINE.exec(text) : null;
    if (!match) {
      parent.append(text);
      return;
    }
    parent.append(text.slice(0, match.index));
    const [whole, , code, bold, italic] = match;
    if (code !== undefined) {
      const node = document.createElement("code");
      node.dir = "ltr";
      node.textContent = code;
      parent.append(node);
    } else {
      const node = document.createElement(bold !== undefined ? "strong" : "em");
      appendInline(node, bold ?? italic, depth + 1);
      parent.append(node);
    }
    text = text.slice(match.index + whole.length);
  }
}
