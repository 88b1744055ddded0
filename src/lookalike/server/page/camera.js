// Taking a photo with the computer's camera. Phones have their own way: the file input with `capture`.

import { closable, find } from "./elements.js";

const [dialog, video, shoot, note] = ["shutter", "video", "shoot", "shutter-note"].map(find);
let stream = null;

export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Let the user take a photo; `onPhoto(blob)` gets it as a JPEG. */
export async function takePhoto(onPhoto) {
  shoot.disabled = true;
  note.textContent = "Waiting for the camera. The browser may ask whether this page may use it.";
  dialog.showModal();
  shoot.onclick = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => blob && onPhoto(blob), "image/jpeg", 0.92);
    dialog.close();
  };
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: 1920 } });
  } catch {
    note.textContent = "No camera can be used here. Choose a file in its place.";
    return;
  }
  if (!dialog.open) return stop(); // closed while the browser asked
  video.srcObject = stream;
  await video.play();
  note.textContent = "";
  shoot.disabled = false;
  shoot.focus();
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
}

dialog.addEventListener("close", stop);
closable(dialog);
