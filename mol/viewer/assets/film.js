// The film: a video that is never seen itself; each of its frames is drawn on the canvas under its number.

class Film {
  /**
   * @param parts bytes of the film in pieces
   * @param data of the page: when each frame begins, in milliseconds of the medium
   * @param onFrame called with the place of the frame that is now to be seen
   */
  constructor(parts, data, onFrame) {
    this.media = data.media;
    this.end = data.end;
    this.stretch = data.stretch; // seconds of the medium per second of the film
    this.onFrame = onFrame;
    this.frame = 0;
    this.target = 0;
    this.speed = 1;
    this.loop = null;
    this.busy = false; // looking for a frame
    this.video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, preload: "auto" });
    this.video.src = URL.createObjectURL(new Blob(parts, { type: data.kind }));
    this.exact = "requestVideoFrameCallback" in this.video;
    this.listen();
  }

  get paused() {
    return this.video.paused;
  }

  /** The first frame can be drawn; rejected if the browser can't play the film. */
  opened() {
    return new Promise((resolve, reject) => {
      this.video.addEventListener("loadeddata", resolve, { once: true });
      this.video.addEventListener("error", () => reject(new Error("this browser cannot play the film")), { once: true });
    });
  }

  listen() {
    this.video.addEventListener("seeked", () => this.afterSeek());
    this.video.addEventListener("ended", () => this.afterEnd());
    if (this.exact) {
      const step = (_, { mediaTime }) => {
        this.show(this.at(mediaTime));
        this.video.requestVideoFrameCallback(step);
      };
      this.video.requestVideoFrameCallback(step);
    } else {
      const step = () => {
        if (!this.video.paused && !this.busy) this.show(this.at(this.video.currentTime));
        requestAnimationFrame(step);
      };
      step();
    }
  }

  /** The frame that is shown at a time of the medium. Times are whole milliseconds, with errors of rounding. */
  at(seconds) {
    return lastUpTo(this.media, 1000 * seconds + 0.5);
  }

  /** Where in the medium to look for a frame: in its middle, so that no rounding leads to a neighbour. */
  middle(frame) {
    const start = this.media[frame];
    const end = frame + 1 < this.media.length ? this.media[frame + 1] : this.end;
    return (start + (end - start) / 2) / 1000;
  }

  show(frame) {
    this.frame = frame;
    if (!this.busy) this.target = frame;
    this.onFrame(frame);
    if (this.loop && !this.video.paused && !this.busy && (frame >= this.loop.last || frame < this.loop.first)) {
      this.seek(this.loop.first);
    }
  }

  /** Go to a frame; while one is looked for, only the last request is kept. */
  seek(frame) {
    this.target = Math.max(0, Math.min(this.media.length - 1, frame));
    if (!this.busy) this.startSeek();
  }

  startSeek() {
    // The video's own `seeking` ends before its event comes; a frame that is shown in between must not be taken for
    // the one that is wanted.
    this.busy = true;
    this.sought = this.target;
    this.video.currentTime = this.middle(this.target);
  }

  afterSeek() {
    if (this.sought !== this.target) {
      this.startSeek();
      return;
    }
    this.busy = false;
    // Where frames are reported, the report follows; but none does if the frame was on the screen, or in a hidden tab.
    const wanted = this.target;
    const check = () => {
      if (!this.busy && this.video.paused && this.target === wanted) this.show(wanted);
    };
    if (this.exact) setTimeout(check, 120);
    else check();
  }

  afterEnd() {
    if (this.loop) {
      this.seek(this.loop.first);
      this.play();
    } else this.onFrame(this.frame);
  }

  play() {
    this.video.playbackRate = Math.max(0.0625, Math.min(16, this.speed * this.stretch));
    if (this.video.ended || (!this.loop && this.frame === this.media.length - 1)) this.seek(0);
    // Interrupted by a pause at once: nothing is wrong.
    this.video.play().catch(() => {});
  }

  pause() {
    this.video.pause();
  }

  setSpeed(speed) {
    this.speed = speed;
    this.video.playbackRate = Math.max(0.0625, Math.min(16, speed * this.stretch));
  }
}
