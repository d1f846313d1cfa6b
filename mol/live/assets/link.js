// The connection to the program: messages as JSON, some with a picture.

const FULL = 4001; // as in mol/live/room.py

class Link {
  /** @param on {message(object, picture), open(), closed(why)}; the picture is an ImageBitmap or null */
  constructor(on) {
    this.on = on;
    this.tries = 0;
    this.heard = Promise.resolve(); // messages are passed on in their order, though pictures take a while to decode
    this.open();
  }

  open() {
    const address = new URL("socket", location.href);
    address.protocol = "ws:";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => {
      this.tries = 0;
      this.on.open();
    });
    this.socket.addEventListener("message", ({ data }) => {
      this.heard = this.heard.then(() => this.receive(data)).catch((error) => console.error(error));
    });
    this.socket.addEventListener("close", ({ code }) => {
      if (code === FULL) this.on.closed("full");
      else {
        this.on.closed("gone");
        this.tries += 1;
        setTimeout(() => this.open(), Math.min(5000, 500 * this.tries));
      }
    });
  }

  async receive(data) {
    if (typeof data === "string") {
      this.on.message(JSON.parse(data), null);
      return;
    }
    const length = new DataView(data).getUint32(0, true);
    const message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    this.on.message(message, picture);
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(message instanceof ArrayBuffer ? message : JSON.stringify(message));
  }

  /** Whether frames wait here because the program does not take them. */
  get jammed() {
    return this.socket.readyState !== WebSocket.OPEN || this.socket.bufferedAmount > 1 << 20;
  }
}
