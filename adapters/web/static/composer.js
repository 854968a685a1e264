/** The form for a question and its picture: typing, choosing, dropping, pasting, sending. */

const byId = (id) => document.getElementById(id);
const form = byId("composer");
const question = byId("question");
const fileInput = byId("file");

export class Composer {
  #file = null;
  #preview = "";
  #hasChat = false;
  #isBusy = false;
  #onSend;

  /** @param onSend is called with {text, file}; returns whether it accepted them */
  constructor(onSend) {
    this.#onSend = onSend;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    question.addEventListener("input", () => this.#fit());
    question.addEventListener("keydown", (event) => {
      // While an input method composes a character, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    for (const id of ["choose", "drop-zone"]) byId(id).addEventListener("click", () => fileInput.click());
    fileInput.addEventListener("change", () => {
      this.take(fileInput.files);
      fileInput.value = "";
    });
    byId("chosen-remove").addEventListener("click", () => {
      this.#setFile(null);
      question.focus();
    });
    byId("chosen-preview").addEventListener("error", () => byId("chosen-preview").classList.add("unseen"));
    document.addEventListener("paste", (event) => {
      if (event.clipboardData?.files.length) {
        event.preventDefault();
        this.take(event.clipboardData.files);
      }
    });
    this.#listenForDrops();
  }

  /** Take the first of these files as the picture of the next question. */
  take(files) {
    if (!files.length) return;
    this.#setFile(files[0]);
    this.note(files.length > 1 ? "One picture at a time: I took the first one." : "");
    question.focus();
  }

  setText(text) {
    question.value = text;
    this.#fit();
    question.focus();
  }

  note(sentence) {
    byId("composer-note").textContent = sentence;
  }

  update({ hasChat, isBusy }) {
    this.#hasChat = hasChat;
    this.#isBusy = isBusy;
    byId("send").hidden = isBusy;
    byId("stop").hidden = !isBusy;
    question.placeholder = hasChat ? "Ask more about the picture" : "Ask about the picture";
    this.#hint();
  }

  #send() {
    const text = question.value.trim();
    if (this.#isBusy) return this.note("The answer is still being written. Wait for it, or press Stop.");
    if (!text && !this.#file) return this.note(this.#hasChat ? "Type a question first." : "Choose a picture first.");
    this.note("");
    this.#onSend({ text, file: this.#file });
    question.value = "";
    this.#fit();
    this.#setFile(null);
  }

  #setFile(file) {
    URL.revokeObjectURL(this.#preview);
    this.#file = file;
    this.#preview = file ? URL.createObjectURL(file) : "";
    const preview = byId("chosen-preview");
    preview.classList.remove("unseen");
    if (file) preview.src = this.#preview;
    else preview.removeAttribute("src");
    byId("chosen").hidden = !file;
    byId("chosen-name").textContent = file?.name || "Pasted picture";
    this.#hint();
  }

  #hint() {
    const looksWrong = this.#file?.type && !this.#file.type.startsWith("image/");
    byId("chosen-hint").textContent = looksWrong
      ? "This does not look like a picture."
      : this.#hasChat
        ? "Starts a new chat"
        : "Ready. Ask, or send it as it is.";
  }

  #fit() {
    question.style.height = "auto";
    question.style.height = `${question.scrollHeight}px`;
  }

  #listenForDrops() {
    let depth = 0; // dragenter and dragleave fire for every nested element
    const show = (isShown) => (byId("drop-overlay").hidden = !isShown);
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => {
      if (!hasFiles(event)) return;
      depth += 1;
      show(true);
    });
    addEventListener("dragleave", (event) => {
      if (!hasFiles(event)) return;
      depth = Math.max(0, depth - 1);
      show(depth > 0);
    });
    addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = 0;
      show(false);
      this.take(event.dataTransfer.files);
    });
  }
}
