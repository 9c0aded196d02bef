const DIGITS = new Uint8Array(128);
[...'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~'].forEach((c, i) => { DIGITS[c.charCodeAt(0)] = i; });
async function unpack(text) {
  const short = (5 - text.length % 5) % 5, bytes = new Uint8Array((text.length + short) / 5 * 4), view = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < text.length; i += 5, at += 4) {
    let value = 0;
    for (let k = 0; k < 5; k++) value = value * 85 + (i + k < text.length ? DIGITS[text.charCodeAt(i + k)] : 84);
    view.setUint32(at, value);
  }
  const stream = new Blob([bytes.subarray(0, bytes.length - short)]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Response(stream).text();
}
