// Links that hold a plan: its text, compressed, behind the `#`, which a browser sends to no server.
// plandsl/playground/link.py writes and reads the same form.

const FORM = "1";
const LONGEST = 262144; // bytes of a plan, as MAX_FILE_BYTES of plandsl/limits.py

async function through(bytes, stream, most) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > most) {
      await reader.cancel();
      throw new Error("the text in it is too long");
    }
    parts.push(value);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export async function fragmentOf(text) {
  const bytes = await through(new TextEncoder().encode(text), new CompressionStream("deflate-raw"), Infinity);
  let letters = "";
  for (let at = 0; at < bytes.length; at += 8192) letters += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return `#${FORM}.` + btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

// The text of a fragment, or null where there is no fragment. Throws where the fragment holds no text.
export async function textOf(fragment) {
  if (fragment.length < 2) return null;
  const [form, letters] = fragment.slice(1).split(".", 2);
  if (form !== FORM || letters === undefined) throw new Error("its form is not known");
  const bytes = Uint8Array.from(atob(letters.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  const text = await through(bytes, new DecompressionStream("deflate-raw"), LONGEST);
  return new TextDecoder("utf-8", { fatal: true }).decode(text);
}
