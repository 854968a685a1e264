/** The list of chats, newest first; a drawer on narrow screens. */

const template = document.getElementById("chat-template");
const sidebar = document.getElementById("sidebar");
const page = document.getElementById("page");
const list = document.getElementById("chats");
const opener = document.getElementById("open-sidebar");

export class Sidebar {
  #onDelete;

  /** @param onDelete is called with a chat after the person has confirmed */
  constructor(onDelete) {
    this.#onDelete = onDelete;
    opener.addEventListener("click", () => this.open());
    document.getElementById("close-sidebar").addEventListener("click", () => this.close());
    document.getElementById("backdrop").addEventListener("click", () => this.close());
  }

  get isOpen() {
    return sidebar.classList.contains("open");
  }

  open() {
    sidebar.classList.add("open");
    opener.setAttribute("aria-expanded", "true");
    page.inert = true;
    document.getElementById("close-sidebar").focus();
  }

  close() {
    if (!this.isOpen) return;
    sidebar.classList.remove("open");
    opener.setAttribute("aria-expanded", "false");
    page.inert = false;
    opener.focus();
  }

  show(chats, currentThread) {
    const focused = document.activeElement?.closest?.("#chats .chat")?.dataset.thread;
    const kept = new Map([...list.children].map((item) => [item.dataset.thread, item]));
    list.replaceChildren(...chats.map((chat) => this.#item(kept.get(chat.thread), chat, currentThread)));
    document.getElementById("no-chats").hidden = chats.length > 0;
    // Moving an element in the document removes its focus.
    if (focused) [...list.children].find((item) => item.dataset.thread === focused)?.querySelector("a").focus();
  }

  #item(kept, chat, currentThread) {
    const item = kept ?? template.content.firstElementChild.cloneNode(true);
    const link = item.querySelector("a");
    const title = chat.title || "A picture";
    item.dataset.thread = chat.thread;
    link.href = `#/${chat.thread}`;
    item.querySelector(".chat-title").textContent = title;
    item.querySelector(".chat-time").textContent = when(new Date(chat.updated_at));
    if (chat.thread === currentThread) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    const button = item.querySelector("button");
    button.setAttribute("aria-label", `Delete the chat ${title}`);
    button.onclick = () => this.#confirm({ ...chat, title });
    return item;
  }

  #confirm(chat) {
    const dialog = document.getElementById("confirm-delete");
    document.getElementById("confirm-name").textContent = chat.title;
    dialog.returnValue = "cancel";
    dialog.onclose = () => dialog.returnValue === "delete" && this.#onDelete(chat);
    dialog.showModal();
  }
}

function when(date) {
  const now = new Date();
  const days = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days <= 0) return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (days === 1) return "Yesterday";
  const year = date.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString([], { day: "numeric", month: "short", year });
}
