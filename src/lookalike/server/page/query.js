// How a photo gets here: chosen, dropped anywhere, pasted, taken.

import { hasCamera, takePhoto } from "./camera.js";
import { find } from "./elements.js";

/**
 * `onPhotos(files)` is told of photos that the user brings, `onMore(files)` of those to go with them, and
 * `onTrouble(line)` of what is none.
 */
export function photos({ onPhotos, onMore, onTrouble }) {
  const bring = (files, told = onPhotos) => {
    const pictures = [...files].filter(({ type }) => !type || type.startsWith("image/"));
    if (pictures.length) told(pictures);
    else if (files.length) onTrouble("That is not a picture. JPEG, PNG and WebP are.");
  };

  for (const [name, told] of [["file", onPhotos], ["shot", onPhotos], ["add", onMore]]) {
    const input = find(name);
    input.addEventListener("change", () => {
      bring(input.files, told);
      input.value = ""; // the same file may be chosen again
    });
  }

  find("camera").hidden = !hasCamera();
  find("camera").addEventListener("click", () => takePhoto((photo) => onPhotos([photo])));

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
