// The browser's camera: its frames as grey pictures, each with the time of its capture.

const HEADER = 16; // bytes: number, seconds, width, height, as mol/live/frames.py reads them

/** What went wrong with a camera, in words: [what, what to do]. */
function cameraProblem(error) {
  const known = {
    NotFoundError: ["No camera was found", "Plug one in, or let another program let go of it, then start again."],
    OverconstrainedError: ["This camera is not there any more", "Choose another one, then start again."],
    NotAllowedError: ["The browser may not use the camera", "Allow it in the address bar or in the system's settings, then start again."],
    NotReadableError: ["The camera cannot be used", "Another program may have it. Close that program, then start again."],
    AbortError: ["The camera cannot be used", "Unplug it and plug it in again, then start again."],
  };
  return known[error.name] || ["The camera cannot be used", `${error.message || error}. Then start again.`];
}

class Camera {
  /**
   * @param settings {apart: seconds between frames, most: pixels}
   * @param onFrame called with (message, canvas, number, captured), the time in milliseconds of the page
   * @param onEnd called with [what, what to do] when the camera has gone
   */
  constructor(settings, onFrame, onEnd) {
    this.settings = settings;
    this.onFrame = onFrame;
    this.onEnd = onEnd;
    this.video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    this.number = 0;
    this.last = -Infinity;
  }

  get running() {
    return Boolean(this.stream);
  }

  /** The cameras that can be chosen; they have names once one has been allowed. */
  static async list() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter((device) => device.kind === "videoinput");
  }

  /** Ask for a camera by its id, or by its place among all. */
  async start(id, place) {
    if (!navigator.mediaDevices) throw new Error("This address cannot use a camera: open the one that the terminal shows");
    const devices = await Camera.list();
    const wanted = id || (place > 0 && devices[place] ? devices[place].deviceId : "");
    if (!id && place > 0 && place >= devices.length) throw Object.assign(new Error(), { name: "NotFoundError" });
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    if (wanted) video.deviceId = { exact: wanted };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: false, video });
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => {
      if (this.stream !== stream) return;
      this.stop();
      this.onEnd(["The camera is gone", "It was unplugged, or the browser may not use it any more. Plug it in, then start again."]);
    });
    this.stream = stream;
    this.video.srcObject = stream;
    await this.video.play();
    this.id = track.getSettings().deviceId;
    const step = (now, metadata) => {
      if (this.stream !== stream) return;
      this.take(now, metadata);
      this.video.requestVideoFrameCallback(step);
    };
    this.video.requestVideoFrameCallback(step);
  }

  stop() {
    if (this.stream) for (const track of this.stream.getTracks()) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** Send the frame that the camera shows, unless the last one is too near. */
  take(now, metadata) {
    const captured = metadata.captureTime > now - 5000 && metadata.captureTime <= now ? metadata.captureTime : now;
    if (captured - this.last < 1000 * this.settings.apart) return;
    const { videoWidth, videoHeight } = this.video;
    if (!videoWidth || !this.ready()) return;
    this.last = captured;
    const scale = Math.min(1, 640 / Math.max(videoWidth, videoHeight), Math.sqrt(this.settings.most / (videoWidth * videoHeight)));
    const [width, height] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.video, 0, 0, width, height);
    const message = greyMessage(context.getImageData(0, 0, width, height), this.number, captured / 1000);
    this.onFrame(message, canvas, this.number, captured);
    this.number += 1;
  }

  /** Whether another frame can be sent; set by whoever sends them. */
  ready() {
    return true;
  }
}

/** Grey levels by the weights of ITU-R BT.601, after what the server wants to know of them. */
function greyMessage({ data, width, height }, number, seconds) {
  const message = new ArrayBuffer(HEADER + width * height);
  const view = new DataView(message);
  view.setUint32(0, number, true);
  view.setFloat64(4, seconds, true);
  view.setUint16(12, width, true);
  view.setUint16(14, height, true);
  const grey = new Uint8Array(message, HEADER);
  for (let place = 0, from = 0; place < grey.length; place += 1, from += 4) {
    grey[place] = (77 * data[from] + 150 * data[from + 1] + 29 * data[from + 2] + 128) >> 8;
  }
  return message;
}
