/** Draws the turns of a chat. The output depends only on the list of turns; elements of unchanged turns are kept. */

import { renderMarkdown } from "./markdown.js";

const template = document.getElementById("turn-template");
const NEAR_END_PX = 120;

export class Conversation {
  #root;
  #scroller;
  #actions;
  #shown = new Map(); // key -> {element, turn}
  #isPinned = true; // to the end, until the person scrolls up

  /** @param actions {regenerate(), resend(key)} */
  constructor(root, scroller, actions) {
    this.#root = root;
    this.#scroller = scroller;
    this.#actions = actions;
    scroller.addEventListener("scroll", () => (this.#isPinned = this.#isAtEnd()), { passive: true });
    const observer = new ResizeObserver(() => this.#isPinned && this.scrollToEnd()); // text grows, and pictures load late
    observer.observe(root);
    observer.observe(scroller);
  }

  /**
   * Shows exactly these turns, each
   * {key, question, pictures: [url], notices, answer, state, error, busy, canRegenerate, canResend}
   */
  show(turns) {
    const keys = new Set(turns.map((turn) => turn.key));
    for (const [key, { element }] of this.#shown) {
      if (!keys.has(key)) {
        element.remove();
        this.#shown.delete(key);
      }
    }
    turns.forEach((turn, index) => {
      let shown = this.#shown.get(turn.key);
      if (!shown) {
        shown = { element: this.#create(turn.key), turn: {} };
        this.#shown.set(turn.key, shown);
      }
      if (this.#root.children[index] !== shown.element) this.#root.insertBefore(shown.element, this.#root.children[index] ?? null);
      this.#update(shown.element, shown.turn, turn);
      shown.turn = turn;
    });
  }

  scrollToEnd() {
    this.#isPinned = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #create(key) {
    const element = template.content.firstElementChild.cloneNode(true);
    element.querySelector(".regenerate").addEventListener("click", () => this.#actions.regenerate());
    element.querySelector(".resend").addEventListener("click", () => this.#actions.resend(key));
    const copy = element.querySelector(".copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(this.#shown.get(key).turn.answer);
      const label = copy.querySelector("span");
      label.textContent = "Copied";
      setTimeout(() => (label.textContent = "Copy"), 1500);
    });
    return element;
  }

  #update(element, old, turn) {
    const part = (name) => element.querySelector(`.${name}`);
    if (String(old.pictures) !== String(turn.pictures)) this.#updatePictures(part("pictures"), turn.pictures);
    part("question-text").textContent = turn.question;
    part("question").hidden = !turn.question;
    if (String(old.notices) !== String(turn.notices)) {
      part("notices").replaceChildren(
        ...turn.notices.map((text) => Object.assign(document.createElement("li"), { textContent: text, dir: "auto" })),
      );
    }
    part("notices").hidden = !turn.notices.length;
    if (old.answer !== turn.answer) part("answer-text").replaceChildren(renderMarkdown(turn.answer));
    part("answer-text").hidden = !turn.answer;
    setText(part("answer-state"), turn.state);
    setText(part("answer-error"), turn.error);
    part("answer").classList.toggle("busy", turn.busy);
    part("answer").classList.toggle("writing", turn.busy && Boolean(turn.answer));
    part("resend").hidden = !turn.canResend;
    part("regenerate").hidden = !turn.canRegenerate;
    part("copy").hidden = turn.busy || !turn.answer || !navigator.clipboard;
  }

  #updatePictures(root, urls) {
    const images = [...root.querySelectorAll("img")];
    urls.forEach((url, index) => {
      // The same element gets the stored picture's URL, so that the picture already shown stays until the other has loaded.
      const image = images[index] ?? root.appendChild(document.createElement("img"));
      image.alt = "The picture of this chat";
      // For example HEIC: the model has seen it, and the browser shows this text instead.
      image.onerror = () => (image.alt = "This browser cannot show this kind of picture. The model can see it.");
      image.src = url;
    });
    images.slice(urls.length).forEach((image) => image.remove());
  }
}

function setText(node, text) {
  const wanted = text ?? "";
  if (node.textContent !== wanted) node.textContent = wanted;
  node.hidden = !wanted;
}
