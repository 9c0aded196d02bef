// A page opened from a file may not start a worker, and search runs in one: a hidden frame does its work instead.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = Object.assign(document.createElement("iframe"), { hidden: true });
      document.body.append(frame);
      const inside = frame.contentWindow;
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => Promise.all(urls.map(src => this.load(frame, src)));
      this.ready = this.load(frame, url);
      this.inside = inside;
    }
    load(frame, src) {
      return new Promise((resolve, reject) => {
        const script = Object.assign(frame.contentDocument.createElement("script"), { src: new URL(src, location), onload: resolve, onerror: reject });
        frame.contentDocument.body.append(script);
      });
    }
    postMessage(data) { this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data }))); }
    set onmessage(listener) { this.addEventListener("message", listener); }
    set onerror(listener) { this.addEventListener("error", listener); }
    terminate() { this.inside.frameElement.remove(); }
  }
  window.IFrameWorker = window.Worker = IFrameWorker;
}
