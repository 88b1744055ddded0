// The API key, asked for when the server wants one; it lives as long as the tab.

import { closable, find } from "./elements.js";

const PLACE = "lookalike-key";
let asking = null;

export const key = () => {
  try {
    return sessionStorage.getItem(PLACE) ?? "";
  } catch {
    return "";
  }
};

/** Ask for a key, once however many requests want it. False where the user would rather not. */
export function askForKey(refused) {
  if (key() !== refused) return Promise.resolve(Boolean(key())); // another request has asked meanwhile
  asking ??= ask(refused).finally(() => (asking = null));
  return asking;
}

function ask(refused) {
  const [dialog, form, input, wrong] = ["key", "key-form", "key-input", "key-wrong"].map(find);
  input.value = "";
  wrong.textContent = refused ? "This key is not known here." : "";
  return new Promise((resolve) => {
    let given = false;
    const submit = (event) => {
      event.preventDefault();
      if (!/^[\x21-\x7e]+$/.test(input.value.trim())) {
        wrong.textContent = "A key is letters and digits, without spaces.";
        return;
      }
      sessionStorage.setItem(PLACE, input.value.trim());
      given = true;
      dialog.close();
    };
    form.addEventListener("submit", submit);
    dialog.addEventListener(
      "close",
      () => {
        form.removeEventListener("submit", submit);
        input.value = "";
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
    input.focus();
  });
}

closable(find("key"));
