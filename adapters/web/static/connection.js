/** Talks to the server: actions by HTTP, updates by one WebSocket that reconnects by itself. */

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 8000;

/** The server refused an action; the message is the server's sentence. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** The server could not be reached, so it is unknown whether the action was done. */
export class Unreachable extends Error {}

async function errorOf(response) {
  try {
    return new Refused(response.status, (await response.json()).error);
  } catch {
    return errorOfProxy(response.status);
  }
}

/** The error of a response that is not ours, but a proxy's before our server. */
function errorOfProxy(status) {
  if (status >= 502 && status <= 504) return new Unreachable();
  if (status === 413) return new Refused(status, "The proxy before this page does not take a file as large as this one.");
  return new Refused(status, `The server answered with an error (${status}).`);
}

/** @returns {Promise<object|null>} the response's JSON, null if it has none */
export async function act(method, path, body) {
  let response;
  try {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Unreachable();
  }
  if (!response.ok) throw await errorOf(response);
  return response.status === 204 ? null : response.json();
}

/** Sends a question. `onProgress` gets the completed fraction of the upload, 0 to 1. */
export function sendQuestion(thread, question, onProgress) {
  const form = new FormData();
  form.append("message_id", question.messageId);
  form.append("text", question.text);
  if (question.file) form.append("picture", question.file, question.file.name);
  return new Promise((resolve, reject) => {
    // fetch() does not report upload progress.
    const request = new XMLHttpRequest();
    request.open("POST", `api/chats/${thread}/messages`);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("error", () => reject(new Unreachable()));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(request.response);
      else if (request.response?.error) reject(new Refused(request.status, request.response.error));
      else reject(errorOfProxy(request.status));
    });
    request.send(form);
  });
}

export class Connection {
  #socket = null;
  #thread = null;
  #waitMs = FIRST_WAIT_MS;
  #timer = 0;
  #handlers;

  /** @param handlers {onMessage, onOpen, onLost, onSignInNeeded, onSession} */
  constructor(handlers) {
    this.#handlers = handlers;
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  async open() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    try {
      const session = await act("GET", "api/session");
      if (!session.is_signed_in) return this.#handlers.onSignInNeeded();
      this.#handlers.onSession(session);
    } catch {
      return this.#lost();
    }
    const address = new URL("api/tab", location.href); // all addresses are relative: a proxy may serve the page in a folder
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.hash = "";
    const socket = new WebSocket(address);
    this.#socket = socket;
    socket.addEventListener("open", () => {
      this.#waitMs = FIRST_WAIT_MS;
      this.#tell();
      this.#handlers.onOpen();
    });
    socket.addEventListener("message", (event) => this.#handlers.onMessage(JSON.parse(event.data)));
    socket.addEventListener("close", () => this.#lost());
  }

  /** Subscribe to a thread's chat and its updates. */
  watch(thread) {
    this.#thread = thread;
    this.#tell();
  }

  #tell() {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ watch: this.#thread }));
  }

  #lost() {
    this.#socket = null;
    this.#handlers.onLost();
    this.#timer = setTimeout(() => this.open(), this.#waitMs * (0.8 + 0.4 * Math.random()));
    this.#waitMs = Math.min(this.#waitMs * 2, LONGEST_WAIT_MS);
  }

  #hurry() {
    if (this.#timer) this.open();
  }
}
