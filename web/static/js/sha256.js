// SHA-256 (FIPS 180-4). Browsers have their own over TLS and on the node's machine only; elsewhere there is this one.
const K = new Uint32Array(64);
const START = new Uint32Array(8);

// The first 32 bits of the fractional parts of the cube and square roots of the first primes.
for (let candidate = 2, found = 0; found < 64; candidate++) {
  let prime = true;
  for (let divisor = 2; divisor * divisor <= candidate; divisor++) if (candidate % divisor === 0) prime = false;
  if (!prime) continue;
  if (found < 8) START[found] = (Math.sqrt(candidate) % 1) * 2 ** 32;
  K[found++] = (Math.cbrt(candidate) % 1) * 2 ** 32;
}

function blocks(state, words, view, to) {
  for (let at = 0; at < to; at += 64) {
    for (let i = 0; i < 16; i++) words[i] = view.getUint32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [a, b] = [words[i - 15], words[i - 2]];
      const low = ((a >>> 7) | (a << 25)) ^ ((a >>> 18) | (a << 14)) ^ (a >>> 3);
      const high = ((b >>> 17) | (b << 15)) ^ ((b >>> 19) | (b << 13)) ^ (b >>> 10);
      words[i] = (words[i - 16] + low + words[i - 7] + high) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const big = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const one = (h + big + ((e & f) ^ (~e & g)) + K[i] + words[i]) | 0;
      const small = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const two = (small + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + one) | 0; d = c; c = b; b = a; a = (one + two) | 0;
    }
    state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    state[4] += e; state[5] += f; state[6] += g; state[7] += h;
  }
}

/** The digest of an ArrayBuffer, as an ArrayBuffer. */
export function sha256Here(buffer) {
  const state = START.slice();
  const words = new Int32Array(64);
  const whole = buffer.byteLength - (buffer.byteLength % 64);
  blocks(state, words, new DataView(buffer), whole);
  const left = new Uint8Array(buffer, whole);
  const tail = new Uint8Array(left.length < 56 ? 64 : 128);
  tail.set(left);
  tail[left.length] = 0x80;
  const view = new DataView(tail.buffer);
  view.setBigUint64(tail.length - 8, BigInt(buffer.byteLength) * 8n);
  blocks(state, words, view, tail.length);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => digest.setUint32(4 * index, word));
  return digest.buffer;
}

/** The digest of an ArrayBuffer, by the browser where it can. */
export async function sha256(buffer) {
  return crypto.subtle ? crypto.subtle.digest("SHA-256", buffer) : sha256Here(buffer);
}
