// The page of a loopback platform. What comes from the server is only ever put in as text.

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1000;
let seen = null;
let room = location.hash.slice(1);
let mode = null; // {kind: "edit" | "reply", message}
let socket = null;
let files = []; // chosen for the next message
const read = new Map(); // room id -> number of messages when it was last looked at

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// -- what comes

function connect() {
  const mine = new WebSocket(`ws://${location.host}/view/live?person=${encodeURIComponent(sessionStorage.person)}`);
  const before = socket;
  socket = mine;
  before?.close();
  mine.onmessage = (event) => {
    seen = JSON.parse(event.data);
    show();
  };
  mine.onclose = () => {
    if (mine !== socket) return;
    $("bot-state").textContent = "The loopback has ended, or is away.";
    $("bot-state").className = "is-away";
    setTimeout(start, RETRY_MS);
  };
}

async function start() {
  let people;
  try {
    people = await (await fetch("/view/people")).json();
  } catch {
    setTimeout(start, RETRY_MS);
    return;
  }
  if (!people.some(({id}) => id === sessionStorage.person)) sessionStorage.person = people[0].id;
  connect();
}

// -- what is shown

function show() {
  if (!seen.rooms.some(({id}) => id === room)) room = seen.rooms[0].id;
  const here = seen.rooms.find(({id}) => id === room);
  document.title = `${here.name} – loopback ${seen.platform}`;
  $("platform").textContent = `Loopback ${seen.platform}`;
  $("bot-state").textContent = seen.is_bot_here ? `${seen.bot} is connected.` : `${seen.bot} is not connected.`;
  $("bot-state").className = seen.is_bot_here ? "" : "is-away";
  $("mention").textContent = `@${seen.bot}`;
  $("person").replaceChildren(
    ...seen.people.map(({id, name}) => make("option", {value: id, selected: id === sessionStorage.person}, name)),
  );
  showRooms(here);
  $("room-name").textContent = here.name;
  $("back").hidden = here.parent === null;
  $("back").onclick = () => go(here.parent);
  $("room-state").textContent = here.status;
  $("text").placeholder = here.parent ? "Reply in the thread" : `Mention @${seen.bot} with a picture`;
  showMessages(here);
}

function showRooms(here) {
  read.set(here.id, here.messages.length);
  const listed = seen.rooms.filter(({is_listed, id}) => is_listed || id === here.id);
  const inOrder = listed.filter(({parent}) => parent === null).flatMap((top) => [top, ...listed.filter(({parent}) => parent === top.id)]);
  const focused = document.activeElement?.dataset?.room;
  $("rooms").replaceChildren(
    ...inOrder.map(({id, name, parent, messages}) => {
      const isNew = messages.length > (read.get(id) ?? 0);
      const button = make("button", {type: "button", "data-room": id, title: name, onclick: () => go(id)}, name);
      if (id === here.id) button.setAttribute("aria-current", "true");
      return make("li", {class: [parent && "is-thread", isNew && "is-new"].filter(Boolean).join(" ")}, button);
    }),
  );
  if (focused) $("rooms").querySelector(`[data-room="${CSS.escape(focused)}"]`)?.focus();
}

function showMessages(here) {
  const list = $("messages");
  const isAtEnd = list.dataset.room !== here.id || list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  const known = new Map(list.dataset.room === here.id ? [...list.children].map((node) => [node.dataset.id, node]) : []);
  const nodes = here.messages.map((message) => {
    const written = JSON.stringify(message);
    const old = known.get(message.id);
    return old?.dataset.written === written ? old : messageNode(message, written, here);
  });
  if (!nodes.length) nodes.push(make("li", {class: "is-empty"}, "Nothing has been written here yet."));
  if (nodes.length !== list.children.length || nodes.some((node, index) => node !== list.children[index])) list.replaceChildren(...nodes);
  list.dataset.room = here.id;
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function messageNode(message, written, here) {
  const marks = [message.is_edited && "edited", message.is_private && "only you see this"].filter(Boolean).join(", ");
  const classes = ["is_bot", "is_private", "is_being_written"].filter((name) => message[name]).map((name) => name.replaceAll("_", "-"));
  const node = make("li", {"data-id": message.id, "data-written": written, class: classes.join(" ")});
  node.append(make("div", {class: "who"}, make("span", {class: "author"}, message.author), make("small", {}, marks)));
  if (message.answers !== null) node.append(make("div", {class: "answers"}, message.answers));
  const text = make("div", {class: "text"});
  writeText(text, message.text);
  node.append(text, make("div", {class: "files"}, ...message.files.map(fileNode)));
  node.append(
    make("div", {class: "buttons"}, ...message.buttons.map(({id, label}) =>
      make("button", {type: "button", onclick: () => ask("press", message, {button: id})}, label))),
    make("div", {class: "doings"}, ...doings(message, here)),
  );
  return node;
}

function fileNode({id, name, is_image}) {
  const address = `/view/files/${encodeURIComponent(id)}`;
  if (!is_image) return make("a", {href: address, download: name}, name);
  const image = make("img", {src: address, alt: name});
  image.addEventListener("load", () => {
    const list = $("messages");
    if (list.scrollHeight - list.scrollTop - list.clientHeight < image.height + 80) list.scrollTop = list.scrollHeight;
  });
  return make("a", {href: address, target: "_blank", rel: "noopener"}, image);
}

function doings(message, here) {
  const doing = (label, what, kind = "") => make("button", {type: "button", class: kind, onclick: what}, label);
  const found = [];
  if (message.thread !== null && message.thread !== here.id && here.parent === null) {
    const label = message.num_replies ? `${message.num_replies} in the thread` : "Reply in thread";
    found.push(doing(label, () => go(message.thread), "thread"));
  }
  if (seen.has_references && !message.is_private && message.room === here.id) found.push(doing("Reply", () => enter("reply", message)));
  if (message.is_own) {
    found.push(doing("Edit", () => enter("edit", message)));
    found.push(doing("Delete", () => ask("delete", message)));
  }
  return found;
}

// Code, bold words, names, and characters whose meaning was taken away.
function writeText(node, text) {
  const names = [seen.bot, ...seen.people.map(({name}) => name)].join("|");
  const marks = new RegExp("```(?:\\w*\\n)?([^]*?)```|`([^`\\n]+)`|\\*\\*(.+?)\\*\\*|@(" + names + ")\\b|\\\\([\\\\*_~`|>#.:<@-])", "g");
  let at = 0;
  for (const match of text.matchAll(marks)) {
    node.append(text.slice(at, match.index));
    const [, block, code, bold, name, plain] = match;
    if (block !== undefined) node.append(make("pre", {}, make("code", {}, block)));
    else if (code !== undefined) node.append(make("code", {}, code));
    else if (bold !== undefined) node.append(make("strong", {}, bold));
    else if (name !== undefined) node.append(make("span", {class: "name"}, `@${name}`));
    else node.append(plain);
    at = match.index + match[0].length;
  }
  node.append(text.slice(at));
}

// -- what people do

function go(id) {
  room = id;
  location.hash = id;
  leaveMode();
  complain("");
  show();
  $("text").focus();
}

function complain(sentence) {
  $("problem").textContent = sentence;
}

async function send(path, options) {
  complain("");
  try {
    const response = await fetch(path, {method: "POST", ...options});
    if (response.ok) return true;
    complain((await response.json()).error);
  } catch {
    complain("The loopback cannot be reached.");
  }
  return false;
}

function ask(what, message, more = {}) {
  const body = JSON.stringify({person: sessionStorage.person, room: message.room, message: message.id, ...more});
  return send(`/view/${what}`, {body, headers: {"Content-Type": "application/json"}});
}

function enter(kind, message) {
  mode = {kind, message};
  $("mode").hidden = false;
  $("mode-text").textContent = kind === "edit" ? "You are changing a message." : `You reply to ${message.author}: ${message.text.slice(0, 60)}`;
  if (kind === "edit") $("text").value = message.text;
  $("text").focus();
}

function leaveMode() {
  if (mode?.kind === "edit") $("text").value = "";
  mode = null;
  $("mode").hidden = true;
}

function choose(more) {
  files.push(...more);
  $("chosen").replaceChildren(
    ...files.map((file, index) => {
      const remove = () => {
        files.splice(index, 1);
        choose([]);
      };
      const item = make("li", {});
      const name = make("span", {}, `${file.name} `);
      if (file.type.startsWith("image/")) showPreview(item, file);
      item.append(name, make("button", {type: "button", "aria-label": `Remove ${file.name}`, onclick: remove}, "×"));
      return item;
    }),
  );
}

function showPreview(item, file) {
  const reader = new FileReader();
  reader.onload = () => item.prepend(make("img", {src: reader.result, alt: ""}));
  reader.readAsDataURL(file);
}

async function submit() {
  const text = $("text").value.trim();
  if ((!text && !files.length) || $("send").disabled) return;
  $("send").disabled = true;
  let isDone;
  if (mode?.kind === "edit") {
    isDone = await ask("edit", mode.message, {text});
  } else {
    const body = new FormData();
    const fields = {person: sessionStorage.person, room, text, replies_to: mode?.message.id ?? ""};
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    for (const file of files) body.append("file", file, file.name);
    isDone = await send("/view/post", {body});
  }
  $("send").disabled = false;
  if (!isDone) return;
  if (mode?.kind !== "edit") {
    files = [];
    choose([]);
  }
  leaveMode();
  $("text").value = "";
  $("messages").scrollTop = $("messages").scrollHeight;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
  if (event.key === "Escape") leaveMode();
});
$("mention").addEventListener("click", () => {
  $("text").setRangeText(`@${seen.bot} `, $("text").selectionStart, $("text").selectionEnd, "end");
  $("text").focus();
});
$("file").addEventListener("change", (event) => {
  choose([...event.target.files]);
  event.target.value = "";
  $("text").focus();
});
$("leave-mode").addEventListener("click", leaveMode);
$("person").addEventListener("change", (event) => {
  sessionStorage.person = event.target.value;
  leaveMode();
  connect();
});
document.addEventListener("paste", (event) => choose([...event.clipboardData.files]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("is-dropping", kind === "dragover");
    if (kind === "drop") choose([...event.dataTransfer.files]);
  });
}
window.addEventListener("hashchange", () => {
  if (seen && location.hash.slice(1) !== room) go(location.hash.slice(1));
});
start();
