// How a photo gets here: chosen, dropped anywhere, pasted, taken.

import { hasCamera, takePhoto } from "./camera.js";
import { find } from "./elements.js";

/** Call `onPhoto(file)` for each photo that the user brings, `onTrouble(line)` for what is none. */
export function photos(onPhoto, onTrouble) {
  const bring = (files) => {
    const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
    if (!file) return;
    if (file.type && !file.type.startsWith("image/")) onTrouble("That is not a picture. JPEG, PNG and WebP are.");
    else onPhoto(file);
  };

  for (const input of [find("file"), find("shot")]) {
    input.addEventListener("change", () => {
      bring(input.files);
      input.value = ""; // the same file may be chosen again
    });
  }

  find("camera").hidden = !hasCamera();
  find("camera").addEventListener("click", () => takePhoto(onPhoto));

  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return; // words are pasted where the cursor is
    event.preventDefault();
    bring(event.clipboardData.files);
  });

  dropped(bring);
}

function dropped(bring) {
  const veil = find("dropping");
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
  let depth = 0; // enter and leave come for each element under way
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    depth = Math.max(0, depth - 1);
    veil.hidden = depth > 0 ? false : true;
  });
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    depth = 0;
    veil.hidden = true;
    if (!carriesFiles(event)) return;
    event.preventDefault();
    bring(event.dataTransfer.files);
  });
}
