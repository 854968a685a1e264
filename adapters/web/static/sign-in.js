/** The dialog that asks for the token, and the button that signs out. */

import { act, Refused } from "./connection.js";

const byId = (id) => document.getElementById(id);
const dialog = byId("sign-in");

export class SignIn {
  /** @param onSignedIn is called when the token was right */
  constructor(onSignedIn) {
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    byId("sign-in-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const error = byId("sign-in-error");
      try {
        await act("POST", "api/session", { token: byId("token").value });
        error.textContent = "";
        byId("token").value = "";
        dialog.close();
        onSignedIn();
      } catch (reason) {
        error.textContent = reason instanceof Refused ? reason.message : "The server cannot be reached just now.";
        byId("token").select();
      }
    });
    byId("sign-out").addEventListener("click", async () => {
      await act("DELETE", "api/session").catch(() => null); // who is signed in is asked after the reload
      location.reload();
    });
  }

  get isOpen() {
    return dialog.open;
  }

  open() {
    byId("sign-out").hidden = true;
    if (!dialog.open) dialog.showModal();
  }

  show(session) {
    byId("sign-out").hidden = !session.can_sign_out;
  }
}
