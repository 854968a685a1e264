/** The page's state: the shown chat and the questions that are being sent. Everything is drawn from it. */

import { act, Connection, Refused, sendQuestion, Unreachable } from "./connection.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { drawShapes } from "./shapes.js";
import { Sidebar } from "./sidebar.js";
import { SignIn } from "./sign-in.js";

const byId = (id) => document.getElementById(id);
const THREAD = /^#\/([a-z0-9]{16,64})$/;
const SENDING = { phase: "sending", progress: 0, notices: [], error: "" };
const LOST_AFTER_MS = 700; // a shorter interruption is not shown

let thread = null; // the shown thread's id; null for a new chat
let chats = [];
let chat = null; // the stored chat of `thread`
let isLoaded = false;
const received = new Map(); // turn id -> the newest that the server has said of it, in `thread`
let running = null; // {turnId, notices, text, position, wait}: the answer that is being written in `thread`
let failure = null; // {turnId, error} of an answer that has just failed
const outbox = new Map(); // thread -> the question sent from this tab, until its stored turn is answered

const conversation = new Conversation(byId("conversation"), byId("scroller"), { regenerate, resend });
const sidebar = new Sidebar(deleteChat);
const composer = new Composer(ask);
const signIn = new SignIn(() => connection.open());
const connection = new Connection({ onMessage, onOpen, onLost, onSignInNeeded, onSession: (session) => signIn.show(session) });

// ---- what is shown

function route() {
  const wanted = THREAD.exec(location.hash)?.[1] ?? null;
  if (wanted !== thread) {
    thread = wanted;
    chat = running = failure = null;
    isLoaded = false;
    received.clear();
    composer.note("");
    connection.watch(thread);
    sidebar.close();
  }
  draw();
}

function draw() {
  const local = outbox.get(thread);
  const turns = turnsToShow(local);
  const isBusy = Boolean(running) || (local?.phase === "sending" && local.turnId === null);
  conversation.show(turns);
  composer.update({ hasChat: Boolean(chat), isBusy });
  byId("stop").disabled = !running;
  byId("welcome").hidden = thread !== null;
  byId("missing").hidden = !(thread && isLoaded && !chat && !local);
  byId("conversation").setAttribute("aria-busy", String(isBusy));
  const title = chat?.title || (local && (local.text || "A picture")) || (thread ? "Chat" : "New chat");
  byId("title").textContent = title;
  document.title = thread && title !== "Chat" ? `${title} · Threadsight` : "Threadsight";
  sidebar.show(chats, thread);
}

function turnsToShow(local) {
  const stored = chat?.turns ?? [];
  const turns = stored.map((turn, index) => {
    const isLast = index === stored.length - 1;
    const live = running && (running.turnId === turn.turn_id || (running.turnId === null && isLast)) ? running : null;
    const isPending = turn.status === "pending";
    return {
      key: local?.turnId === turn.turn_id ? local.messageId : (keys.get(turn.turn_id) ?? `turn ${turn.turn_id}`),
      question: turn.question,
      pictures: turn.image_ids.map((id) => `api/chats/${thread}/pictures/${id}`),
      notices: live ? live.notices : turn.notices,
      answer: live ? live.text : turn.answer,
      state: live ? stateOf(live) : isPending ? "Waiting to be answered…" : turn.status === "stopped" ? "Stopped" : "",
      error: live ? "" : turn.error,
      busy: Boolean(live) || isPending,
      canRegenerate: isLast && !running && !isPending && !local && stored.some((other) => other.image_ids.length),
      canResend: false,
    };
  });
  if (local && !hasArrived(local)) {
    turns.push({
      key: local.messageId,
      question: local.text,
      pictures: local.url ? [local.url] : [],
      notices: local.notices,
      answer: "",
      state: local.phase === "sending" ? sendingState(local) : "",
      error: local.error,
      busy: local.phase === "sending",
      canRegenerate: false,
      canResend: local.phase !== "sending",
    });
  }
  return turns;
}

function hasArrived(local) {
  if (local.phase !== "sending") return false;
  // The stored chat may arrive before the response with the turn's id.
  return (chat?.turns ?? []).some((turn) => (local.turnId === null ? turn.turn_id > local.lastTurnId : turn.turn_id === local.turnId));
}

const keys = new Map(); // turn id -> the key under which its element was first shown

function stateOf(live) {
  if (live.text) return "";
  if (!live.position) return "Looking…";
  if (live.isLoading) return "The model was asleep and is being loaded…";
  const place = live.position === 1 ? "You are next" : `Number ${live.position} in the queue`;
  return `${place}${live.wait === null ? "" : `, ${roughly(live.wait)}`}…`;
}

function roughly(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 90) return `about ${Math.round(seconds / 5) * 5} seconds`;
  return `about ${Math.round(seconds / 60)} minutes`;
}

function sendingState(local) {
  if (!local.file || local.progress === 0 || local.progress === 1) return "Sending…";
  return `Sending… ${Math.round(local.progress * 100)} %`;
}

function announce(sentence) {
  // A screen reader reads the sentence again only if the text changes.
  byId("announcer").textContent = byId("announcer").textContent === sentence ? `${sentence}\u00a0` : sentence;
}

// ---- messages from the server

function onMessage(message) {
  if (message.type === "chats") chats = message.chats;
  else if (message.type === "listed") onListed(message);
  else if (message.thread !== thread) return;
  else if (message.type === "chat") onChat(message);
  else onAnswerEvent(message);
  drawSoon();
}

/** One line of the list has begun, changed or gone. */
function onListed({ thread: changed, chat: line }) {
  const others = chats.filter((other) => other.thread !== changed);
  const newer = others.filter((other) => line && other.updated_at > line.updated_at); // the newest is first
  chats = line ? [...newer, line, ...others.slice(newer.length)] : others;
}

function onChat(message) {
  const isFirst = !isLoaded;
  chat = message.chat && { ...message.chat, turns: turnsOf(message) };
  isLoaded = true;
  running = message.is_running ? { turnId: message.running_turn_id, notices: [], text: "", position: 0, wait: null } : null;
  const local = outbox.get(thread);
  const sent = local && chat?.turns.find((turn) => turn.turn_id === local.turnId);
  if (sent && sent.status !== "pending") forget(local);
  if (failure) {
    // If a regenerated answer fails, the stored chat has the earlier one and does not mention the failure.
    const kept = chat?.turns.find((turn) => turn.turn_id === failure.turnId);
    if (kept && kept.status !== "failed") composer.note(failure.error);
    failure = null;
  }
  if (isFirst) conversation.scrollToEnd();
}

/** The turns of a message that has only those which have changed since the one before it. */
function turnsOf({ turn_ids: ids, chat: { turns } }) {
  for (const turn of turns) received.set(turn.turn_id, turn);
  return ids.filter((id) => received.has(id)).map((id) => received.get(id));
}

function onAnswerEvent(event) {
  if (!running) return;
  switch (event.type) {
    case "waiting":
      running.position = event.position;
      running.wait = event.estimated_wait_seconds;
      running.isLoading = event.is_loading;
      announce(stateOf(running));
      break;
    case "notice":
      running.notices = [...running.notices, event.text];
      announce(event.text);
      break;
    case "text":
      running.text += event.text;
      break;
    case "ended":
      // The stored chat follows; until it arrives the text stays.
      if (event.status === "failed") failure = { turnId: running.turnId, error: event.error ?? "" };
      if (event.status === "failed") announce(event.error ?? "The answer failed.");
      else announce(`${event.status === "stopped" ? "Stopped. " : ""}Answer: ${running.text}`);
      if (!event.is_stored) takeBack(event);
  }
}

/** The queue may turn out full after the question was stored; the server then removes it, and it is kept here to be sent again. */
function takeBack(event) {
  const local = outbox.get(thread);
  if (!local || local.turnId !== running.turnId) return;
  keys.delete(local.turnId);
  local.turnId = null;
  refuse(local, event.error ?? "", running.notices);
  running = failure = null;
  chat = chat && { ...chat, turns: chat.turns.filter((turn) => turn.turn_id <= local.lastTurnId) };
}

let isDrawPending = false;
function drawSoon() {
  if (isDrawPending) return;
  isDrawPending = true;
  // A timeout, not an animation frame: a hidden tab has no frames, and must be up to date when it is shown.
  setTimeout(() => {
    isDrawPending = false;
    draw();
  }, 16);
}

let lostTimer = 0;
let wasLost = false;

function onLost() {
  if (lostTimer || wasLost) return;
  lostTimer = setTimeout(() => {
    wasLost = true;
    showConnection("The connection is lost. Trying again…");
  }, LOST_AFTER_MS);
}

function onOpen() {
  clearTimeout(lostTimer);
  lostTimer = 0;
  if (wasLost) {
    wasLost = false;
    showConnection("Connected again.");
    setTimeout(() => wasLost || showConnection(""), 2500);
  }
  for (const [where, local] of outbox) if (local.phase === "unsent") send(where, local);
}

function showConnection(sentence) {
  byId("connection").hidden = !sentence;
  byId("connection").textContent = sentence;
}

// ---- the person's actions

function ask({ text, file }) {
  const isNew = Boolean(file) || !thread;
  const where = isNew ? randomId() : thread;
  const stored = isNew ? [] : (chat?.turns ?? []);
  const local = {
    messageId: randomId(),
    text,
    file,
    url: file ? URL.createObjectURL(file) : "",
    lastTurnId: Math.max(0, ...stored.map((turn) => turn.turn_id)),
    turnId: null,
    ...SENDING,
  };
  if (outbox.has(where)) forget(outbox.get(where), where);
  outbox.set(where, local);
  if (isNew) location.hash = `#/${where}`;
  send(where, local);
  conversation.scrollToEnd();
}

async function send(where, local) {
  Object.assign(local, SENDING);
  draw();
  try {
    const result = await sendQuestion(where, local, (progress) => {
      local.progress = progress;
      drawSoon();
    });
    if (result.turn_id !== null) {
      local.turnId = result.turn_id;
      keys.set(local.turnId, local.messageId);
      const stored = where === thread && chat?.turns.find((turn) => turn.turn_id === local.turnId);
      if (stored && stored.status !== "pending") forget(local);
    } else {
      refuse(local, result.error ?? "", result.notices);
    }
  } catch (error) {
    if (error instanceof Unreachable) {
      Object.assign(local, { phase: "unsent", error: "Not sent: the connection broke off. I will try again by myself." });
    } else {
      refuse(local, error.message, []);
      if (error.status === 401) onSignInNeeded();
    }
  }
  drawSoon();
}

function refuse(local, error, notices) {
  // Nothing was stored, so this is a new question with a new id; the element keeps its key.
  Object.assign(local, { phase: "refused", error, notices });
  announce([...notices, error].join(" "));
}

function resend(key) {
  const local = outbox.get(thread);
  if (local?.messageId !== key) return;
  if (local.phase === "refused") local.messageId = randomId();
  send(thread, local);
}

function forget(local, where = thread) {
  if (local.url) setTimeout(() => URL.revokeObjectURL(local.url), 10_000); // by then the stored picture has replaced it
  outbox.delete(where);
}

async function regenerate() {
  await attempt(async () => {
    const result = await act("POST", `api/chats/${thread}/regenerate`);
    if (result.turn_id === null) composer.note([...result.notices, result.error ?? ""].join(" "));
  });
  byId("question").focus();
}

async function stop() {
  if (running) await attempt(() => act("POST", `api/chats/${thread}/stop`));
}

async function deleteChat(deleted) {
  await attempt(() => act("DELETE", `api/chats/${deleted.thread}`));
  outbox.delete(deleted.thread);
  if (deleted.thread === thread) startNew();
  announce("The chat was deleted.");
}

async function attempt(action) {
  composer.note("");
  try {
    await action();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) onSignInNeeded();
    else if (error instanceof Refused) composer.note(error.message);
    else if (error instanceof Unreachable) composer.note("The server cannot be reached just now. Please try again.");
    else throw error;
  }
}

function startNew() {
  // Not by location.hash, which would leave a bare # in the URL.
  if (location.hash) history.pushState(null, "", location.pathname);
  route();
  byId("question").focus();
}

/** 128 random bits. (crypto.randomUUID exists only on https and loopback addresses.) */
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What is shown is somebody's who has signed out, here or in another tab. */
function onSignInNeeded() {
  if (!signIn.isOpen && chats.length) {
    chats = [];
    chat = running = null;
    isLoaded = false;
    drawSoon();
  }
  signIn.open();
}

// ---- wiring

byId("stop").addEventListener("click", stop);
for (const id of ["new-chat", "new-chat-top"]) byId(id).addEventListener("click", () => (sidebar.close(), startNew()));
byId("draw").addEventListener("click", async () => composer.take([await drawShapes()]));
byId("examples").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) composer.setText(button.textContent);
});
byId("skip-link").addEventListener("click", (event) => {
  event.preventDefault(); // the chat is in the URL
  byId("question").focus();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (sidebar.isOpen) sidebar.close();
  else stop();
});
addEventListener("hashchange", route);
addEventListener("popstate", route);
route();
connection.open();
